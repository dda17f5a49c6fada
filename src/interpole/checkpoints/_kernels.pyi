from typing import Any

from numpy.typing import NDArray

def weighted_sum(inputs: tuple[NDArray[Any], ...], weights: tuple[float, ...], out: NDArray[Any]) -> None: ...
def task_vector_sum(
    inputs: tuple[NDArray[Any], ...],
    weights: tuple[float, ...],
    cuts: tuple[tuple[int, int], ...],
    normalize: bool,
    scale: float,
    base: NDArray[Any],
    out: NDArray[Any],
) -> None: ...
def magnitude_band(
    x: NDArray[Any], base: NDArray[Any], low: int, high: int, inside: NDArray[Any]
) -> tuple[int, int, int, int]: ...
def absolute_sums(a: NDArray[Any], b: NDArray[Any]) -> tuple[float, float, float]: ...
def block_sums(data: NDArray[Any], keys: NDArray[Any], out: NDArray[Any]) -> None: ...
def line_products(merged: NDArray[Any], a: NDArray[Any], b: NDArray[Any]) -> list[float]: ...
