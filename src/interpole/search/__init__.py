"""Fewer tokens for the same answer (adaptive sweeps), and better maps of λ (search)."""

__all__: list[str] = []
