"""The experiments of arXiv 2510.10977 by name: what was printed, the sweep that makes it again, and what comes of the two."""

__all__: list[str] = []
