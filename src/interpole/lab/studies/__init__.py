"""Studies on tiny pairs: each a recipe that anyone can run again, with hypotheses written down before it was run.

`conduct.STUDIES` is the one list of them; `interpole lab study NAME` runs one (docs/studies).
"""

from __future__ import annotations

__all__: list[str] = []
