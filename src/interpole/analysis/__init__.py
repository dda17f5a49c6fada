"""Samples → numbers → decisions. No model, no torch."""

__all__: list[str] = []
