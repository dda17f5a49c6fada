"""Weights + prompts → responses: one file per engine, one registry of them (`registry`), and what all share (`base`)."""

__all__: list[str] = []
