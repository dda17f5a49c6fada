"""The run folder: the only truth after generation. Its run file, its samples, its journals; runs united, graded anew."""

__all__: list[str] = []
