"""What a policy is: data that says, for one question, at which λ to answer it. It needs no model and no samples.

A fitted policy is JSON, so that a sweep that routes (`points: - {policy: …}`), a server (`name@auto`) and the scores of
`interpole route` choose by one function, `FittedPolicy.choose`. `analysis.fitting` fits policies to samples, and
`analysis.routing` says what they are worth.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from operator import mul
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, FiniteFloat, model_validator

from interpole.errors import AnalysisError
from interpole.files import StrPath, write_atomic
from interpole.formats import read_json
from interpole.schema import Strict, validated

__all__ = [
    "MARGIN",
    "Feature",
    "FittedPolicy",
    "Groups",
    "Known",
    "LambdaChoice",
    "Probe",
    "Regression",
    "Rule",
    "agreed",
    "known_of",
    "number_of",
]

MARGIN = "margin"
"""The number that says how likely the first token opens the thinking: log odds, by the model's own distribution."""
MAX_CHARS = 1000  # of a question that are looked at: what a run's summaries hold
MAX_BYTES = 16 << 20
_AGAIN = "fit it again: interpole route RUN --policy NAME --fit FILE"
_FIGURES = re.compile(r"\d+")
NONE: Mapping[str, Any] = MappingProxyType({})
Lams = Annotated[tuple[FiniteFloat, ...], Field(min_length=1, max_length=10_000)]
Weights = tuple[FiniteFloat, ...]


class Known(NamedTuple):
    """What is known of a question before it is answered, by name."""

    labels: Mapping[str, str]
    numbers: Mapping[str, float]


def known_of(text: str, labels: Mapping[str, str] = NONE, numbers: Mapping[str, float] = NONE) -> Known:
    """What a question's own text says of it, with what is known from elsewhere.

    Args:
        text: of the question.
        labels: e.g. `difficulty`, `task`; those that are empty are not known.
        numbers: e.g. `margin`.
    """
    seen = text[:MAX_CHARS]
    own = {"length": float(len(seen)), "figures": float(len(_FIGURES.findall(seen)))}
    return Known({name: value for name, value in labels.items() if value}, own | dict(numbers))


class LambdaChoice(NamedTuple):
    """How a question is answered."""

    first: tuple[float, ...]  # λ of the answers that are asked for
    then: float | None = None  # λ of one more, which counts where those differ; None: `first` is one


def agreed(answers: Sequence[str | None]) -> bool:
    """Whether answers are the same; none at all is not."""
    first = (answers[0] or "").strip()
    return bool(first) and all((one or "").strip() == first for one in answers)


class Groups(Strict):
    """A λ for each group of questions: of a label, or of a number's ranges.

    Attributes:
        by: the label or number.
        labels: the label's values; empty: `by` is a number.
        edges: where each further range of the number begins.
        lams: of each group, and last of all questions, for one that is in none.
    """

    kind: Literal["groups"]
    by: str
    labels: tuple[str, ...] = ()
    edges: tuple[FiniteFloat, ...] = ()
    lams: Lams

    @model_validator(mode="after")
    def _check(self) -> Groups:
        num = len(self.labels) if self.labels else len(self.edges) + 1
        if len(self.lams) != num + 1 or list(self.edges) != sorted(self.edges):
            raise ValueError("a λ for each group and one for all questions are expected, and rising edges")
        return self

    @property
    def needs(self) -> tuple[str, ...]:
        """What has to be known of a question."""
        return (self.by,)

    def choose(self, known: Known) -> LambdaChoice:
        """That of the question's group."""
        if self.labels:
            label = known.labels.get(self.by)
            place = self.labels.index(label) if label in self.labels else -1
        else:
            number = known.numbers.get(self.by)
            place = -1 if number is None else bisect_right(self.edges, number)
        return LambdaChoice((self.lams[place],))


class Feature(Strict):
    """A label or number as a logistic model takes it: less `centre`, by `scale`; what is not known counts as average."""

    name: str
    centre: FiniteFloat
    scale: Annotated[FiniteFloat, Field(gt=0)]

    def of(self, known: Known) -> float:
        """Its value for a question."""
        value = number_of(known, self.name)
        return 0.0 if value is None else (value - self.centre) / self.scale


def number_of(known: Known, name: str) -> float | None:
    """A number on a log scale, or a label that is one; None: it is not known, or no number."""
    if name in known.numbers:
        return math.copysign(math.log1p(abs(known.numbers[name])), known.numbers[name])
    try:
        return float(known.labels[name])
    except (KeyError, ValueError):
        return None


class Regression(Strict):
    """The λ that is worth most by a model of accuracy, logistic, and of tokens, linear.

    Attributes:
        features: what the models look at.
        lams: what there is to choose from.
        right: for each λ an intercept and a weight for each feature: log odds that the answer is right.
        tokens: likewise: tokens of the response.
        price: accuracy that a token must be worth.
    """

    kind: Literal["model"]
    features: tuple[Feature, ...]
    lams: Lams
    right: tuple[Weights, ...]
    tokens: tuple[Weights, ...]
    price: Annotated[FiniteFloat, Field(ge=0)]

    @model_validator(mode="after")
    def _check(self) -> Regression:
        for table in (self.right, self.tokens):
            if len(table) != len(self.lams) or any(len(row) != len(self.features) + 1 for row in table):
                raise ValueError("a row for each λ with a weight for each feature and an intercept are expected")
        return self

    @property
    def needs(self) -> tuple[str, ...]:
        """What has to be known of a question."""
        return tuple(one.name for one in self.features)

    def choose(self, known: Known) -> LambdaChoice:
        """The λ with the most accuracy beyond what its tokens cost; the first of equals."""
        x = [1.0, *(feature.of(known) for feature in self.features)]
        worth = [
            _expit(sum(map(mul, right, x))) - self.price * sum(map(mul, tokens, x))
            for right, tokens in zip(self.right, self.tokens, strict=True)
        ]
        return LambdaChoice((self.lams[worth.index(max(worth))],))


class Probe(Strict):
    """A few answers; where they are the same that is the answer, else one more at another λ."""

    kind: Literal["probe"]
    first: Annotated[Lams, Field(min_length=2, max_length=100)]
    then: FiniteFloat

    @property
    def needs(self) -> tuple[str, ...]:
        """What has to be known of a question."""
        return ()

    @property
    def lams(self) -> tuple[float, ...]:
        """All λ that may be asked."""
        return (*self.first, self.then)

    def choose(self, known: Known) -> LambdaChoice:  # noqa: ARG002
        """The same for every question; what is asked depends on the answers."""
        return LambdaChoice(self.first, self.then)


Rule = Groups | Regression | Probe


class FittedPolicy(Strict):
    """A policy that was fitted to the samples of a sweep.

    Attributes:
        name: as in `interpole route`: `by length`, `cascade` …
        rule: how it chooses.
        price: accuracy that a token had to be worth.
        tokens: what a response takes on average, by the samples that it was fitted to.
        accuracy: likewise.
        num_questions: that it was fitted to.
        margin_at: λ at which the first token's margin is taken, where the rule needs it.
    """

    name: str
    rule: Annotated[Rule, Field(discriminator="kind")]
    price: Annotated[FiniteFloat, Field(ge=0)]
    tokens: FiniteFloat
    accuracy: FiniteFloat
    num_questions: int
    margin_at: FiniteFloat | None = None

    @model_validator(mode="after")
    def _check(self) -> FittedPolicy:
        if MARGIN in self.rule.needs and self.margin_at is None:
            raise ValueError("margin_at: the rule goes by the margin, and nothing says at which λ it is taken")
        return self

    @property
    def lams(self) -> tuple[float, ...]:
        """Every λ that it may choose, in rising order."""
        return tuple(sorted(set(self.rule.lams)))

    @property
    def places(self) -> tuple[float, ...]:
        """Every λ at which it has to do with a model: those, and that of the margin."""
        return tuple(sorted({*self.lams, *(() if self.margin_at is None else (self.margin_at,))}))

    @property
    def needs(self) -> tuple[str, ...]:
        """What has to be known of a question: `length` and `figures` are its own text's; `margin` is the engine's to say."""
        return self.rule.needs

    def choose(self, known: Known) -> LambdaChoice:
        """How to answer a question."""
        return self.rule.choose(known)

    @classmethod
    def load(cls, path: StrPath) -> FittedPolicy:
        """Read one.

        Raises:
            AnalysisError: it cannot be read, or makes no sense.
        """
        path = Path(path)
        return cls.of(read_json(path, AnalysisError, _AGAIN, what="the policy", max_bytes=MAX_BYTES), path)

    @classmethod
    def of(cls, content: Any, where: object) -> FittedPolicy:
        """Check what a file says.

        Raises:
            AnalysisError: it makes no sense.
        """
        return validated(cls, content, where, AnalysisError, _AGAIN)

    def save(self, path: StrPath) -> None:
        """Write it.

        Raises:
            OutputError: it cannot be.
        """
        write_atomic(Path(path), self.model_dump_json(indent=1) + "\n")


def _expit(x: float) -> float:
    """1 / (1 + exp(−x)), where no exponential overflows."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
