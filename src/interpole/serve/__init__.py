"""Serving: λ per request behind an OpenAI-compatible endpoint."""

__all__: list[str] = []
