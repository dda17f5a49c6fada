"""FP8 with one `weight_scale` per tensor or output row, as compressed-tensors, ModelOpt and FBGEMM store it, read as bfloat16.

A weight `X` of E4M3 codes goes with `X_scale`: value = code · scale, in float32, rounded once to bfloat16. Scales of activations
and of the cache are left out. What these formats can do besides (blocks, groups, zero points, rotated or sparse weights) is
refused by name. https://github.com/vllm-project/compressed-tensors, src/compressed_tensors/quantization/lifecycle/forward.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from interpole.checkpoints.checkpoint import Checkpoint, Origin
from interpole.checkpoints.safetensors import DTYPES, TensorSpec
from interpole.checkpoints.views.fp8 import announced, dequantise, finite, without_quantisation
from interpole.errors import CheckpointError

__all__ = ["METHODS", "MODELOPT", "Scaled"]

METHODS = ("compressed-tensors", "modelopt", "fbgemm_fp8", "ModelOpt (FP8)")
"""Announced methods whose scales multiply the codes."""

MODELOPT = "hf_quant_config.json"
"""ModelOpt's own file, which must not go with weights that are quantised no more."""

SUFFIX = "_scale"
BESIDE = (".input_scale", ".output_scale", ".input_scale_ub", ".k_scale", ".v_scale", ".q_scale", ".prob_output_scale")
"""Single numbers that scale activations and the cache, and no weight."""


@final
class Scaled(Checkpoint):
    """An FP8 checkpoint with `weight_scale` read as bfloat16; its scales and what announces them are gone.

    Attributes:
        raw: the checkpoint as it lies on disk.
        codes: name → spec of the tensors of codes.
    """

    def __init__(self, raw: Checkpoint) -> None:
        """Match codes and scales; reads no tensor.

        Raises:
            CheckpointError: codes are more than E4M3 times one scale per tensor or row, with the name of what shows it.
        """
        self.raw = raw
        self.codes = {name: spec for name, spec in raw.specs.items() if spec.dtype.startswith("F8")}
        for problem in (_asks_for_more(announced(raw.config)), *map(self._problem, self.codes)):
            if problem:
                raise CheckpointError(
                    f"{raw.label}: {problem}",
                    remedy="take the checkpoint it was made from, in bf16 or FP8 with one scale per tensor or row",
                )
        scales = {name + SUFFIX for name in self.codes}
        self.label, self.config = raw.label, without_quantisation(raw.config)
        self.assets = {name: path for name, path in raw.assets.items() if name != MODELOPT}
        self.specs = {
            name: TensorSpec("BF16", spec.shape) if name in self.codes else spec
            for name, spec in raw.specs.items()
            if name not in scales and not (name.endswith(BESIDE) and spec.num_elements == 1)
        }
        self.layout = {name: raw.layout[name] for name in self.specs}

    def _problem(self, name: str) -> str | None:
        """What keeps a tensor of codes from being read, in words; None where nothing does."""
        spec, scale = self.codes[name], self.raw.specs.get(name + SUFFIX)
        if scale is None:
            return f"FP8 tensor {name} has no {name + SUFFIX}"
        others = (name + "_scale_inv", name + "_zero_point", name + "_g_idx", name + "_scale_2")
        if other := next((other for other in others if other in self.raw.specs), None):
            return f"FP8 tensor {name} has {other} beside {name + SUFFIX}, so its values are more than code times scale"
        if spec.dtype != "F8_E4M3" or len(spec.shape) < 2:
            return f"FP8 tensor {name} is {spec}; with {name + SUFFIX} matrices of E4M3 are read"
        if not scale.is_float or (scale.shape not in ((), (1,)) and scale.shape != (*spec.shape[:-1], 1)):
            return f"{name + SUFFIX} is {scale}; for {name} {spec} one scale, or {[*spec.shape[:-1], 1]}, is read"
        return None

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Elements [start, stop); codes are multiplied by their scales in float32 and rounded once."""
        if name not in self.codes:
            return self.raw.read(name, start, stop)
        stop = self.specs[name].num_elements if stop is None else stop
        codes = self.raw.read(name, start, stop)
        if start == stop:
            return codes.astype(DTYPES["BF16"])
        scale_name, columns = name + SUFFIX, self.specs[name].shape[-1]
        if self.raw.specs[scale_name].num_elements == 1:
            scales = finite(self.raw.read(scale_name, 0, 1), scale_name, name)
        else:
            first, last = start // columns, -(-stop // columns)
            rows = finite(self.raw.read(scale_name, first, last), scale_name, name)
            scales = np.repeat(rows, columns)[start - first * columns : stop - first * columns]
        return dequantise(codes, scales).astype(DTYPES["BF16"])

    def stored_bytes(self, name: str) -> int:
        """Codes and scales."""
        return sum(self.raw.stored_bytes(part) for part in (name, *([name + SUFFIX] if name in self.codes else [])))

    def origin(self, name: str) -> Origin | None:
        """Where the tensor lies, if it is not quantised."""
        return None if name in self.codes else self.raw.origin(name)

    def chunk_elements(self, name: str) -> int | None:
        """Pieces of any size."""
        return None if name in self.codes else self.raw.chunk_elements(name)

    def fingerprint(self, *, quick: bool = False) -> str:
        """That of the codes and scales, marked."""
        return hashlib.sha256(f"scaled {self.raw.fingerprint(quick=quick)}".encode()).hexdigest()


def _asks_for_more(said: Any) -> str | None:
    """What of an announced quantisation is more than codes and scales of weights, in words; None where nothing is."""
    if not isinstance(said, Mapping):
        return None
    sparsity = said.get("sparsity_config")
    if said.get("transform_config"):
        return "its config.json has a transform_config: the weights are stored rotated"
    if isinstance(sparsity, Mapping) and sparsity.get("format", "dense") != "dense":
        return (
            f"its config.json has a sparsity_config of format {sparsity.get('format')}: the weights are stored packed"
        )
    return None
