"""Which λ a request asks for: levels of effort by name, and the order in which a request's fields count.

`lam` > `model="name@0.55"`, `"name:low"` or `"name@auto"`, which a policy answers > effort (`reasoning_effort`,
`reasoning.effort`, Anthropic's `output_config.effort`) > the default. Every field that is given is checked, also where another
one counts. No server and no engine is needed here: the vLLM plugin asks the same functions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from interpole.analysis.policies import NONE as NOTHING
from interpole.analysis.policies import FittedPolicy, known_of
from interpole.errors import AnalysisError, RecipeError
from interpole.files import StrPath
from interpole.serve.auto import question_of
from interpole.serve.errors import RequestError

__all__ = [
    "AUTO",
    "NONE",
    "Chosen",
    "Level",
    "Levels",
    "auto_name",
    "card",
    "cards",
    "choose",
    "level_name",
    "levels_of_run",
    "parse_efforts",
]

NONE = "none"
"""The effort that is always there: λ = 0, Instruct."""
AUTO: Literal["auto"] = "auto"
"""Stands for what the policy chooses: `name@auto`."""
SHARES = {"low": 0.5, "medium": 0.9}
"""Levels that a run names: the share of Thinking's accuracy that they keep. `high` is the most accurate λ."""
_WORD = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_NUMBER = re.compile(r"[0-9]*\.?[0-9]+")
_EFFORTS = (("reasoning_effort",), ("reasoning", "effort"), ("output_config", "effort"))
_SWITCHES = (  # what switches thinking off, and the value that does
    (("reasoning", "enabled"), False),
    (("chat_template_kwargs", "enable_thinking"), False),
    (("thinking", "type"), "disabled"),
)


@dataclass(frozen=True, slots=True)
class Level:
    """A λ with a name, and what to expect there, where that was measured."""

    lam: float
    expected_tokens: float | None = None  # Token #N
    expected_accuracy: float | None = None  # Mean@k


@dataclass(frozen=True)
class Levels:
    """What a server offers: its model's name, the λ of a request that names none, the levels of effort, and a policy."""

    default: float
    efforts: dict[str, Level]
    name: str = "interpole"
    auto: FittedPolicy | None = None

    def __post_init__(self) -> None:
        """Refuse what no request could mean."""
        problem = next((word for word in self.efforts if not _WORD.fullmatch(word)), None)
        if problem is not None:
            raise RecipeError(f"{problem!r} is no name of an effort", remedy="write it as low=0.4, in small letters")
        if not self.name or self.name != self.name.strip():
            raise RecipeError(f"{self.name!r} is no name of a model", remedy="give one without blanks around it")
        if AUTO in self.efforts:
            raise RecipeError("the effort auto is what a policy chooses", remedy="give it another name")
        if NONE in self.efforts and self.efforts[NONE].lam != 0:
            raise RecipeError("the effort none is λ = 0, and no other", remedy="give it another name, e.g. minimal")
        for lam in (self.default, *(level.lam for level in self.efforts.values())):
            if not _is_lam(lam):
                raise RecipeError(f"λ = {lam} cannot be served", remedy="give λ from 0 to 1")

    @property
    def all(self) -> dict[str, Level]:
        """The levels that a request may name, `none` among them."""
        return {NONE: Level(0.0), **self.efforts}


@dataclass(frozen=True, slots=True)
class Chosen:
    """The λ of one request, the effort that named it (None: none did; `AUTO`), and the model as the response names it."""

    lam: float
    effort: str | None
    model_name: str


def level_name(name: str, effort: str) -> str:
    """The model name that stands for an effort."""
    return f"{name}:{effort}"


def auto_name(name: str) -> str:
    """The model name that stands for the policy."""
    return f"{name}@{AUTO}"


def parse_efforts(text: str) -> dict[str, Level]:
    """The levels of `low=0.4,medium=0.6,high=1`.

    Raises:
        RecipeError: it is not written so.
    """
    found: dict[str, Level] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not _NUMBER.fullmatch(value) or not _WORD.fullmatch(name) or not _is_lam(float(value)):
            raise RecipeError(
                f"no effort and λ from 0 to 1: {part.strip()!r}", remedy="write low=0.4,medium=0.6,high=1"
            )
        if name in found:
            raise RecipeError(f"the effort {name} stands there twice", remedy="give each one λ")
        found[name] = Level(float(value))
    return found


def levels_of_run(folder: StrPath, *, name: str = "interpole", default: float | None = None) -> Levels:
    """The levels that a run recommends: the fewest tokens at half and at 90 % of Thinking's accuracy, and the most accurate λ.

    Args:
        folder: a run folder, or a curves.csv.
        name: of the model that is served.
        default: λ of requests that name none; None: that of `medium`.

    Raises:
        RunError: there is no run.
        AnalysisError: λ = 1 was not measured, or was never right.
    """
    from interpole.analysis.recommend import recommend
    from interpole.analysis.scoring import load

    data = load(folder)
    best = recommend(data)
    if best.choice is None or not best.share_of_accuracy:
        what = "the run does not say how accurate Thinking is: λ = 1 was not measured, or was never right"
        raise AnalysisError(what, folder, "add λ = 1 to the sweep, or give the levels with --effort")
    of_thinking = best.choice.accuracy.value / best.share_of_accuracy
    chosen = {effort: recommend(data, min_accuracy=share * of_thinking).choice for effort, share in SHARES.items()}
    efforts = {
        effort: Level(choice.lam, choice.tokens.value, choice.accuracy.value)
        for effort, choice in {**chosen, "high": best.choice}.items()
        if choice is not None and choice.lam is not None
    }
    return Levels(efforts["medium"].lam if default is None else default, efforts, name)


def cards(levels: Levels, plain: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The models that a client may name: the one there is, and one for each level of effort.

    Args:
        levels: what the server offers.
        plain: what is said of every one of them.
    """
    found = [{**plain, "id": levels.name, "owned_by": "interpole", "lam": levels.default}]
    for effort, level in levels.all.items():
        expected = {"expected_tokens": level.expected_tokens, "expected_accuracy": level.expected_accuracy}
        named = {"id": level_name(levels.name, effort), "lam": level.lam, "effort": effort}
        found.append({**found[0], **named, **expected})
    if (auto := levels.auto) is not None:
        expected = {"expected_tokens": auto.tokens, "expected_accuracy": auto.accuracy}
        chosen = {"id": auto_name(levels.name), "lam": None, "policy": auto.name, "lams": list(auto.lams)}
        found.append({**found[0], **chosen, **expected})
    return found


def card(name: str, levels: Levels, plain: Mapping[str, Any]) -> dict[str, Any]:
    """One of the models that a client may name, those with a λ of their own among them.

    Raises:
        RequestError: there is none of this name.
    """
    chosen, listed = choose({"model": name}, levels), cards(levels, plain)
    return next((one for one in listed if one["id"] == name), {**listed[0], "id": name, "lam": chosen.lam})


def choose(body: Mapping[str, Any], levels: Levels, numbers: Mapping[str, float] = NOTHING) -> Chosen:
    """The λ that a request asks for.

    Args:
        body: the request, as JSON gave it; what is null counts as not given.
        levels: what the server offers.
        numbers: what is known of the question besides its text, for the policy.

    Raises:
        RequestError: a field is no λ, names no effort, contradicts another, or there is no such model.
    """
    lam = _lam(body.get("lam"), "lam") if body.get("lam") is not None else None
    model_name, by_model = _of_model(body.get("model"), levels)
    effort = _effort(body, levels)
    if lam is not None:
        return Chosen(lam, None, model_name)
    if by_model == AUTO:
        return Chosen(_by_policy(body, levels, numbers), AUTO, model_name)
    if by_model is not None:
        return Chosen(by_model[0], by_model[1], model_name)
    if effort is not None:
        return Chosen(levels.all[effort].lam, effort, model_name)
    return Chosen(levels.default, None, model_name)


def _is_lam(value: float) -> bool:
    return 0 <= value <= 1  # neither NaN nor infinity is


def _lam(value: Any, param: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_lam(value):
        code = "invalid_value" if isinstance(value, int | float) and not isinstance(value, bool) else "invalid_type"
        raise RequestError(f"λ is a number from 0 to 1, not {_short(value)}", param=param, code=code)
    return float(value)


def _by_policy(body: Mapping[str, Any], levels: Levels, numbers: Mapping[str, float]) -> float:
    """The λ that the policy chooses for the question of a request."""
    assert levels.auto is not None
    prompts = body.get("prompt")
    if isinstance(prompts, list) and len(prompts) > 1:
        what = f"{auto_name(levels.name)} chooses λ for one prompt, not for {len(prompts)}"
        raise RequestError(what, param="prompt", code="invalid_value")
    return levels.auto.choose(known_of(question_of(body), numbers=numbers)).first[0]


def _of_model(model: Any, levels: Levels) -> tuple[str, tuple[float, str | None] | Literal["auto"] | None]:
    """The model's name as the response repeats it, and the λ and effort that are written into it, or that a policy chooses."""
    if model is None:
        return levels.name, None
    if not isinstance(model, str):
        raise RequestError(f"the model is a text, not {_short(model)}", param="model", code="invalid_type")
    rest = model.removeprefix(levels.name)
    if model == levels.name:
        return model, None
    if model == auto_name(levels.name) and levels.auto is not None:
        return model, AUTO
    if model == auto_name(levels.name):
        what = f"no policy is served that would choose λ for {model}: start the server with --auto"
        raise RequestError(what, param="model", code="model_not_found", status=404)
    if rest != model and rest.startswith("@"):
        if not _NUMBER.fullmatch(rest[1:]):
            raise RequestError(
                f"no λ in {_short(model)}: write {levels.name}@0.55", param="model", code="invalid_value"
            )
        return model, (_lam(float(rest[1:]), "model"), None)
    if rest != model and rest.startswith(":"):
        return model, (levels.all[_known(rest[1:], levels, "model")].lam, rest[1:])
    there = [levels.name, *(level_name(levels.name, effort) for effort in levels.all), f"{levels.name}@0.55"]
    there += [] if levels.auto is None else [auto_name(levels.name)]
    what = f"there is no model {_short(model)}; there are {', '.join(there)}"
    raise RequestError(what, param="model", code="model_not_found", status=404)


def _effort(body: Mapping[str, Any], levels: Levels) -> str | None:
    """The effort that the fields of a request agree on; thinking switched off is `none`, whatever else is said."""
    named = {param: _known(value, levels, param) for param, value in _given(body, _EFFORTS)}
    if any(value == off for path, off in _SWITCHES for _, value in _given(body, [path])):
        return NONE
    if len(set(named.values())) > 1:
        (one, first), (other, second) = list(named.items())[:2]
        what = f"{other} = {second!r} contradicts {one} = {first!r}: give one of them"
        raise RequestError(what, param=other, code="invalid_value")
    return next(iter(named.values()), None)


def _given(body: Mapping[str, Any], paths: Iterable[tuple[str, ...]]) -> Iterator[tuple[str, Any]]:
    """Those of the fields at `paths` that are given, by their dotted names."""
    for path in paths:
        value: Any = body
        for number, part in enumerate(path):
            if not isinstance(value, Mapping):
                param = ".".join(path[:number])
                raise RequestError(f"{param} is an object, not {_short(value)}", param=param, code="invalid_type")
            value = value.get(part)
            if value is None:
                break
        if value is not None:
            yield ".".join(path), value


def _known(effort: Any, levels: Levels, param: str) -> str:
    if not isinstance(effort, str) or effort not in levels.all:
        code = "invalid_value" if isinstance(effort, str) else "invalid_type"
        there = ", ".join(levels.all)
        raise RequestError(f"there is no effort {_short(effort)}; there are {there}", param=param, code=code)
    return effort


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
