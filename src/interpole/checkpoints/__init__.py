"""A checkpoint is a lazy mapping name → tensor: open it, see it through a view, reduce over it, write it."""

__all__: list[str] = []
