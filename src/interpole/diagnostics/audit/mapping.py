"""From λ of every tensor to a few readable rules: uniform, by layers, by kind, by both, a gradient, or else by name."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interpole.checkpoints.names import num_layers, role_of
from interpole.diagnostics.audit.estimate import simplest
from interpole.merging.rules import at_layer

__all__ = ["MOST_RULES", "LambdaMap", "find_map"]

Intervals = Mapping[str, tuple[float, float]]
Group = Hashable
MOST_RULES = 150
"""With more rules λ is what every tensor happens to have: no recipe that somebody wrote, and slow to try."""
SLACK = 1e-9
FEW = 64
"""Values among which an interval still chooses one."""


@dataclass(frozen=True, slots=True)
class LambdaMap:
    """λ for the whole model (a list is a gradient over the layers), and rules for its exceptions, as a recipe has them."""

    lam: float | list[float]
    rules: tuple[Mapping[str, Any], ...]
    by_name: Mapping[str, float]

    def at(self, name: str) -> float | None:
        """λ of a tensor; for one that did not take part in the search that of the whole model."""
        return self.by_name.get(name, self.lam if isinstance(self.lam, float) else None)

    def __str__(self) -> str:
        """On one line: `λ = 0 but for 0.8 in layers 2-3`."""
        exceptions = ", ".join(f"{rule['lambda']:g} in {_where(rule)}" for rule in self.rules[:8])
        more = f" and {len(self.rules) - 8} more" if len(self.rules) > 8 else ""
        lam = f"{self.lam:g}" if isinstance(self.lam, float) else f"a gradient over the layers {self.lam}"
        return f"λ = {lam}" + (f" but for {exceptions}{more}" if exceptions else "")


def find_map(intervals: Intervals) -> LambdaMap | None:
    """The map with the fewest rules under which λ of every tensor lies in its interval.

    Args:
        intervals: tensor name → smallest and largest λ that it allows.

    Returns:
        None where there is nothing to map.
    """
    if not intervals:
        return None
    allowed = _allowed(intervals)
    found = [
        candidate
        for key in (_nowhere, _layer, _kind, _kind_and_layer)
        if (candidate := _map_by(key, allowed)) is not None
    ]
    best = min(found, key=lambda candidate: len(candidate.rules), default=None)
    if best is None or len(best.rules) > 3:
        best = _gradient(intervals) or best
    return best or _map_by(_name, allowed)


@dataclass(frozen=True, slots=True)
class _Allowed:
    """A few simple numbers of which every interval holds one, and which each allows: a range of them, as they are sorted.

    Attributes:
        values: in ascending order.
        ranks: of each, by how many intervals chose it: 0 is the favourite.
        ranges: tensor name → first of `values` that it allows, and the one after the last.
    """

    values: list[float]
    ranks: NDArray[np.int64]
    ranges: Mapping[str, tuple[int, int]]

    def favourite(self, first: int, stop: int) -> int:
        """The index of the value in a range that most intervals chose."""
        return first + int(np.argmin(self.ranks[first:stop]))


def _allowed(intervals: Intervals) -> _Allowed:
    chosen = _values(intervals)
    values = sorted(chosen)
    order = sorted(chosen, key=lambda value: -chosen[value])
    places = {value: rank for rank, value in enumerate(order)}
    ranges = {name: _range(values, low, high) for name, (low, high) in intervals.items()}
    return _Allowed(values, np.array([places[value] for value in values]), ranges)


def _range(values: Sequence[float], low: float, high: float) -> tuple[int, int]:
    return bisect_left(values, low - SLACK), bisect_right(values, high + SLACK)


def _values(intervals: Intervals) -> dict[float, int]:
    """Numbers of which every interval holds one, with how many chose it: the narrowest intervals choose first."""
    numbers: list[float] = []
    chosen: dict[float, int] = {}
    for low, high in sorted(intervals.values(), key=lambda interval: interval[1] - interval[0]):
        first, stop = bisect_left(numbers, low), bisect_right(numbers, high)
        if stop - first > FEW:
            continue  # it allows so many that it says nothing of them
        if stop > first:
            value = max(numbers[first:stop], key=lambda number: chosen[number])
        else:
            insort(numbers, value := simplest(low, high))
        chosen[value] = chosen.get(value, 0) + 1
    return chosen


def _within(value: float, interval: tuple[float, float]) -> bool:
    return interval[0] - SLACK <= value <= interval[1] + SLACK


def _map_by(key: Callable[[str], Group], allowed: _Allowed) -> LambdaMap | None:
    """The map whose rules are about groups of tensors; None where a group has no one λ."""
    groups: dict[Group, list[str]] = {}
    for name in allowed.ranges:
        groups.setdefault(key(name), []).append(name)
    options = {group: _common(allowed.ranges[name] for name in names) for group, names in groups.items()}
    if any(first >= stop for first, stop in options.values()):
        return None
    most = _most_common(options.values(), allowed)
    exceptions = {
        group: allowed.values[allowed.favourite(first, stop)]
        for group, (first, stop) in options.items()
        if not first <= most < stop
    }
    lam = float(allowed.values[most])
    by_name = {name: exceptions.get(group, lam) for group, names in groups.items() for name in names}
    return LambdaMap(lam, tuple(_rules(key, exceptions)), by_name)


def _common(ranges: Iterable[tuple[int, int]]) -> tuple[int, int]:
    firsts, stops = zip(*ranges, strict=True)
    return max(firsts), min(stops)


def _most_common(options: Collection[tuple[int, int]], allowed: _Allowed) -> int:
    """The index of the value that most groups allow; of several the favourite of the first group that allows one."""
    steps = np.zeros(len(allowed.values) + 1, np.int64)
    np.add.at(steps, [first for first, _ in options], 1)
    np.add.at(steps, [stop for _, stop in options], -1)
    number = np.cumsum(steps[:-1])
    best = np.flatnonzero(number == number.max())
    for first, stop in options:
        low, high = np.searchsorted(best, [first, stop])
        if low < high:
            return int(min(best[low:high], key=lambda index: allowed.ranks[index]))
    return int(best[0])


def _nowhere(_: str) -> Group:
    return None


def _layer(name: str) -> Group:
    found = role_of(name)
    return "none" if found is None or found.layer is None else found.layer


def _kind(name: str) -> Group:
    return found.kind if (found := role_of(name)) else None


def _kind_and_layer(name: str) -> Group:
    return _kind(name), _layer(name)


def _name(name: str) -> Group:
    return name


def _rules(key: Callable[[str], Group], exceptions: Mapping[Any, float]) -> Iterable[dict[str, Any]]:
    """Exceptions as rules; neighbouring layers and kinds of one λ share a rule."""
    by_lam: dict[float, list[Any]] = {}
    for group, lam in exceptions.items():
        by_lam.setdefault(lam, []).append(group)
    for lam, groups in by_lam.items():
        if key is _layer:
            yield from ({"layers": text, "lambda": lam} for text in _layer_texts(groups))
        elif key is _kind:
            yield {"kind": groups[0] if len(groups) == 1 else sorted(groups), "lambda": lam}
        elif key is _kind_and_layer:
            yield from _kind_layer_rules(groups, lam)
        else:
            yield from ({"name": name, "lambda": lam} for name in groups)


def _kind_layer_rules(groups: Sequence[tuple[str, Any]], lam: float) -> Iterable[dict[str, Any]]:
    layers: dict[str, list[Any]] = {}
    for kind, layer in groups:
        layers.setdefault(kind, []).append(layer)
    kinds: dict[str, list[str]] = {}
    for kind, chosen in layers.items():
        for text in _layer_texts(chosen):
            kinds.setdefault(text, []).append(kind)
    for text, names in kinds.items():
        yield {"layers": text, "kind": names[0] if len(names) == 1 else sorted(names), "lambda": lam}


def _layer_texts(layers: Sequence[Any]) -> list[str]:
    """Layers as a recipe names them: `0-3,7`, and `none` for what stands outside of them."""
    runs: list[list[int]] = []
    for layer in sorted(layer for layer in layers if layer != "none"):
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    text = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
    return [*([text] if text else []), *(["none"] if "none" in layers else [])]


def _gradient(intervals: Intervals) -> LambdaMap | None:
    """A straight line of λ over the layers, if every tensor allows it; what stands outside of them may have a λ of its own."""
    depth = num_layers(intervals)
    by_layer: dict[Group, tuple[float, float]] = {}
    for name, (low, high) in intervals.items():
        lowest, highest = by_layer.get(_layer(name), (low, high))
        by_layer[_layer(name)] = max(lowest, low), min(highest, high)
    if depth < 3 or any(low > high for low, high in by_layer.values()) or not {0, depth - 1} <= by_layer.keys():
        return None
    ends = [simplest(*by_layer[0]), simplest(*by_layer[depth - 1])]
    by_group: dict[Group, float] = {
        group: at_layer(ends, group / (depth - 1)) for group in by_layer if isinstance(group, int)
    }
    if not all(_within(lam, by_layer[group]) for group, lam in by_group.items()):
        return None
    rules: tuple[Mapping[str, Any], ...] = ()
    if "none" in by_layer:
        by_group["none"] = ends[0] if _within(ends[0], by_layer["none"]) else simplest(*by_layer["none"])
        rules = ({"layers": "none", "lambda": by_group["none"]},) if by_group["none"] != ends[0] else ()
    return LambdaMap(ends, rules, {name: by_group[_layer(name)] for name in intervals})


def _where(rule: Mapping[str, Any]) -> str:
    kinds = rule.get("kind", [])
    kind = kinds if isinstance(kinds, str) else " and ".join(kinds)
    layers = {None: "", "none": "outside of the layers"}.get(rule.get("layers"), f"layers {rule.get('layers')}")
    return rule.get("name") or ", ".join(part for part in (kind, layers) if part)
