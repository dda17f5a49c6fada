"""A merge as data (a recipe), its methods, and the checkpoint that it is."""

__all__: list[str] = []
