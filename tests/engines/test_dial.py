"""The dial: what runs live is what `merge` writes, bit for bit, and everything else is refused by name."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import live
from interpole.checkpoints.checkpoint import open_checkpoint
from interpole.checkpoints.save import save
from interpole.engines.open import dial, load_into, open_engine
from interpole.errors import EngineError, MismatchError
from interpole.merging.merged import merge
from interpole.merging.recipe import Recipe

KINDS = {
    "dense tied": {"tied": True},
    "dense untied": {"tied": False},
    "mixture of experts": {"moe": True, "tied": False},
}
RULES = {
    "everything": [],
    "a layer range": [{"layers": "0,2", "lambda": 0.0}],
    "one module": [{"kind": "attention", "lambda": 0.0}],
}
PROMPTS = ["34 a-1 b+2 = ?", "x"]


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):
    return live.pair(tmp_path_factory.mktemp("pair"), **KINDS[request.param])


@pytest.fixture(scope="module")
def engine(pair):
    return open_engine("transformers", Recipe.between(*pair, 0.0))


def logits(model):
    tokens = torch.tensor([list(range(40, 60)), list(range(60, 80))])
    with torch.inference_mode():
        return model(tokens).logits


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_live_logits_equal_those_of_the_saved_folder_bit_for_bit(pair, engine, tmp_path, rules):
    recipe = Recipe.between(*pair, 0.55, rules=rules)
    save(merge(recipe), tmp_path / "merged")
    fresh = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto").eval()
    assert fresh.dtype == torch.bfloat16
    with engine.at(recipe):
        assert torch.equal(logits(engine.model), logits(fresh))


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_the_ends_of_the_dial_are_the_sources(pair, engine, lam):
    fresh = AutoModelForCausalLM.from_pretrained(pair[int(lam)], dtype="auto").eval()
    with engine.at(lam):
        assert torch.equal(logits(engine.model), logits(fresh))


def test_the_weights_are_back_after_the_block_even_after_an_error(engine):
    before = {name: tensor.clone() for name, tensor in engine.model.state_dict().items()}

    def at_the_start():
        return all(torch.equal(tensor, before[name]) for name, tensor in engine.model.state_dict().items())

    def fail_elsewhere():
        with engine.at(0.3):
            with engine.at(0.8):
                pass
            assert not at_the_start()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_elsewhere()
    assert at_the_start()


def test_load_returns_the_fingerprint_of_the_merge(pair, engine):
    with engine.at(0.0):
        assert engine.load(0.4) == merge(Recipe.between(*pair, 0.4)).fingerprint()


def test_a_wider_model_gets_the_exact_values(pair):
    merged = dial(Recipe.between(*pair, 0.0))(0.7)
    model = AutoModelForCausalLM.from_pretrained(pair[0], dtype=torch.float32)
    load_into(model, merged)
    name = "model.layers.1.self_attn.q_proj.weight"
    assert np.array_equal(model.state_dict()[name].numpy(), merged[name].astype(np.float32))


class Changed(dict):
    """A checkpoint with other tensors: only what `load_into` uses."""

    def __init__(self, checkpoint, **arrays):
        from interpole.checkpoints.safetensors import TensorSpec

        super().__init__({name: checkpoint[name] for name in checkpoint} | arrays)
        for name in [name for name, array in self.items() if array is None]:
            del self[name]
        self.label = "changed"
        self.specs = {name: TensorSpec("BF16", array.shape) for name, array in self.items()}

    def terms(self, _):
        return None


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    return live.write(tmp_path_factory.mktemp("tied") / "m", 0)


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({"model.layers.1.mlp.up_proj.weight": None}, "model.layers.1.mlp.up_proj.weight"),
        ({"model.layers.9.extra": np.zeros((2, 2), np.float32)}, "model.layers.9.extra"),
        ({"model.norm.weight": np.zeros(31, np.float32)}, "model.norm.weight"),
        ({"lm_head.weight": np.ones((261, 32), np.float32)}, "lm_head.weight"),
    ],
    ids=["missing", "extra", "mis-shaped", "untied"],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_name_and_changes_nothing(tied, arrays, named):
    model = AutoModelForCausalLM.from_pretrained(tied, dtype="auto")
    before = model.state_dict()["model.layers.0.mlp.up_proj.weight"].clone()
    changed = Changed(
        open_checkpoint(tied), **arrays, **{"model.layers.0.mlp.up_proj.weight": np.zeros((48, 32), "f4")}
    )
    with pytest.raises(MismatchError, match=named):
        load_into(model, changed)
    assert torch.equal(model.state_dict()["model.layers.0.mlp.up_proj.weight"], before)


def test_a_head_that_equals_the_tied_embedding_is_taken(tied):
    model = AutoModelForCausalLM.from_pretrained(tied, dtype="auto")
    checkpoint = open_checkpoint(tied)
    load_into(model, Changed(checkpoint, **{"lm_head.weight": checkpoint["model.embed_tokens.weight"]}))


def test_an_unknown_engine_or_option_is_refused(tied):
    recipe = Recipe.between(tied, tied, 0.0)
    with pytest.raises(EngineError, match="no engine 'warp'"):
        open_engine("warp", recipe)
    with pytest.raises(EngineError, match="nonsense"):
        open_engine("transformers", recipe, nonsense=1)
