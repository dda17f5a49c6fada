"""`name@auto`: the λ of a request by a policy that was fitted to a run, from what is known of its question before it is answered.

A policy is served if it needs no more than the question's own text, or, where the engine can say it, how likely the first token
opens the thinking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from interpole.analysis.policies import MARGIN, FittedPolicy, Probe, known_of
from interpole.errors import AnalysisError, RecipeError
from interpole.files import StrPath

__all__ = ["policy_for", "question_of"]

TEXT = frozenset(known_of("").numbers)
"""What a question's own text says of it."""


def policy_for(policy: str, run: StrPath | None, *, margins: bool) -> FittedPolicy:
    """The policy that is served.

    Args:
        policy: a file that `interpole route --fit` wrote, or the name of a policy that is fitted here.
        run: to fit it to.
        margins: whether the engine can say how likely the first token opens the thinking.

    Raises:
        AnalysisError: it cannot be read or fitted, or needs to know what a request does not say.
        RecipeError: it is a name, and there is no run.
    """
    if run is not None and not Path(policy).is_file():
        found = _fitted(policy, run)
    elif Path(policy).is_file() or policy.endswith(".json"):
        found = FittedPolicy.load(policy)
    else:
        remedy = "add --from RUN, or give a file that `interpole route RUN --policy NAME --fit FILE` wrote"
        raise RecipeError(f"nothing to fit the policy {policy!r} to", remedy=remedy)
    _check(found, margins)
    return found


def _fitted(name: str, run: StrPath) -> FittedPolicy:
    """A policy of this name on all questions of a run; if it is not one by something else, by their texts alone."""
    from interpole.analysis.fitting import fit
    from interpole.runs.prediction import first_token_margins
    from interpole.runs.samples import read

    samples = [one for one in read(run, texts=False) if one.lam is not None and 0 <= one.lam <= 1]
    if name.startswith("by "):
        margins = first_token_margins(run)
        return fit(samples, name, numbers={MARGIN: margins.of}, margin_at=margins.at)
    return fit([replace(one, difficulty="") for one in samples], name)  # no request has the task's labels


def _check(policy: FittedPolicy, margins: bool) -> None:
    """Refuse a policy that cannot be followed here."""
    if isinstance(policy.rule, Probe):
        what = "it asks for several answers and compares them, and a request is answered once"
    elif MARGIN in policy.needs and not margins:
        what = "vLLM's servers do not say how likely the first token opens the thinking; --engine transformers does"
    elif unknown := [name for name in policy.needs if name not in TEXT | {MARGIN}]:
        what = f"it goes by the task's {', '.join(unknown)}, which a request does not say"
    elif not all(0 <= lam <= 1 for lam in policy.lams):
        what = "it chooses λ outside of 0 to 1, which no request may have"
    else:
        return
    raise AnalysisError(
        f"the policy {policy.name!r} cannot be served: {what}",
        remedy="take one by the question alone: by length, logistic, two modes",
    )


def question_of(body: Mapping[str, Any]) -> str:
    """The question of a request, whatever its endpoint: the prompt, or the last text of the user's; "" where there is none."""
    for name in ("prompt", "input", "messages"):
        value = body.get(name)
        if isinstance(value, str):
            return value
        if isinstance(value, Sequence):
            said = [value[0]] if name == "prompt" and value else map(_said, reversed(value))
            return next((text for text in said if isinstance(text, str) and text), "")
    return ""


def _said(message: Any) -> str:
    """The text of a message of the user's."""
    if not isinstance(message, Mapping) or message.get("role") != "user":
        return ""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, Sequence) else ()
    texts = [part.get("text") for part in parts if isinstance(part, Mapping)]
    return "".join(text for text in texts if isinstance(text, str))
