"""The tiny pair for vLLM: it has no attention for heads of 24 numbers on a CPU."""

import json
import shutil

import torch
from safetensors.torch import load_file, save_file


def with_heads_of_32(source, out):
    """The model of a folder with heads of 32, zeros in between: it says the same.

    Rotary frequencies stay with θ' = θ^(32/24); RMS over 32 numbers of which 8 are 0, and the attention scale 1/√32, are made up
    for by √(24/32) in k_norm, which is all that is rounded anew.
    """
    shutil.copytree(source, out)
    config = json.loads((out / "config.json").read_text())
    config["head_dim"] = 32
    config["rope_parameters"]["rope_theta"] **= 32 / 24
    (out / "config.json").write_text(json.dumps(config))
    tensors = load_file(out / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            factor = (24 / 32) ** 0.5 if "k_norm" in name else 1
            tensors[name] = widened(tensor.float() * factor, 0).to(tensor.dtype)
        elif name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
            tensors[name] = widened(tensor, 0)
        elif name.endswith("o_proj.weight"):
            tensors[name] = widened(tensor, 1)
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    return out


def widened(tensor, dim):
    """Halves of 12 rows (or columns) of each head, each filled up to 16 with zeros."""
    parts = tensor.movedim(dim, 0).reshape(-1, 12, *tensor.movedim(dim, 0).shape[1:])
    padded = torch.cat([parts, parts.new_zeros(len(parts), 4, *parts.shape[2:])], 1)
    return padded.reshape(-1, *padded.shape[2:]).movedim(0, dim).contiguous()
