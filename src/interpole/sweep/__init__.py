"""The one loop: what a sweep is, what it will do, and the doing of it."""

__all__: list[str] = []
