"""Adapters on their base, against the real peft: the logits of what we save are those of peft's model."""

import json
import warnings

import pytest
import torch
import transformers

import interpole
from interpole.errors import CheckpointError
from interpole.merging.lora import extract

peft = pytest.importorskip("peft", reason="peft is in the extra `test`")

PROMPT = torch.arange(24)[None]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "num_attention_heads": 2, "head_dim": 16}


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def base(request, tmp_path_factory):
    """A random Qwen3 in float32."""
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=64, num_key_value_heads=2, tie_word_embeddings=request.param, max_position_embeddings=64, **SIZES
    )
    folder = tmp_path_factory.mktemp("base")
    transformers.Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


def model(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def logits(loaded):
    with torch.no_grad():
        return loaded.eval()(PROMPT).logits


def adapter(base, folder, **settings):
    """An adapter with random weights, as peft saves it."""
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"]} | settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained = peft.get_peft_model(model(base), config)
        for name, parameter in trained.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.data = torch.randn_like(parameter) * 0.2
        trained.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True, "init_lora_weights": "gaussian"},
        {"rank_pattern": {"layers.1.mlp.down_proj": 8}, "alpha_pattern": {".*0.self_attn.q_proj": 3}},
        {"layers_to_transform": [1], "init_lora_weights": "orthogonal"},
        {"init_lora_weights": False},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ["embed_tokens", "lm_head", "norm"]},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": ["lm_head", "v_proj"]},
    ],
    ids=str,
)
def test_the_logits_are_those_of_peft(base, tmp_path, settings):
    folder = adapter(base, tmp_path / "adapter", **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = logits(peft.PeftModel.from_pretrained(model(base), folder))
    found = logits(model(interpole.save(interpole.open(folder), tmp_path / "out")))
    assert (wanted - logits(model(base))).abs().max() > 0.01
    assert (found - wanted).abs().max() < 1e-4


@pytest.mark.parametrize(
    "start", ["pissa", "pissa_niter_4", "olora", "corda", "lora_ga", "loftq", "whatever-comes-next"]
)
def test_a_start_that_changes_the_base_is_refused_by_name(base, tmp_path, start):
    folder = adapter(base, tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"init_lora_weights": start}))
    with pytest.raises(CheckpointError, match=rf"init_lora_weights is {start}(.|\n)*merge_and_unload"):
        interpole.open(folder)


@pytest.mark.parametrize(("tied", "rank", "save_rest"), [(True, 48, True), (False, 48, True), (False, 5, False)])
def test_what_is_extracted_is_in_peft_what_it_is_here(tmp_path, tied, rank, save_rest):
    config = transformers.Qwen3Config(
        vocab_size=64, num_key_value_heads=2, tie_word_embeddings=tied, attention_bias=True, **SIZES
    )
    for seed, name in enumerate(("base", "merged")):
        torch.manual_seed(seed)
        made = transformers.Qwen3ForCausalLM(config)
        for parameter in made.parameters():  # norms and biases too
            parameter.data = parameter.data + torch.randn_like(parameter) * 0.05
        made.save_pretrained(tmp_path / name)
    adapter, wanted = tmp_path / "adapter", logits(model(tmp_path / "merged"))
    found = extract(
        *(interpole.open(tmp_path / name) for name in ("merged", "base")), rank, adapter, save_rest=save_rest
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        by_peft = logits(peft.PeftModel.from_pretrained(model(tmp_path / "base"), adapter))
    assert not [str(one.message) for one in told if "adapter keys" in str(one.message)]
    here = logits(model(interpole.save(interpole.open(adapter), tmp_path / "out")))
    assert (by_peft - here).abs().max() < 1e-4
    assert (here - logits(model(tmp_path / "base"))).abs().max() > 0.1
    away = (here - wanted).abs().max()
    assert away < 1e-4 if rank == 48 else away > 0.01
    assert bool(found.named("left out")) != save_rest
