"""Weights + prompts → responses: one file per engine, one registry of them (`engines.open`), and what all share (`base`)."""

__all__: list[str] = []
