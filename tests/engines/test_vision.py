"""Language models inside vision models: the default engine runs and moves them like any other."""

import pytest
import torch
import transformers

import live
from interpole.checkpoints.save import save
from interpole.engines.open import open_engine
from interpole.errors import EngineError
from interpole.merging.merged import merge
from interpole.merging.recipe import Recipe
from interpole.records import Sampler

TEXT = {name: value for name, value in live.SIZES.items() if name not in ("num_hidden_layers", "eos_token_id")}
TEXT |= {"num_hidden_layers": 2, "eos_token_id": 257, "pad_token_id": 256, "bos_token_id": None}
QWEN_EYES = {
    "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32, "patch_size": 4,
    "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
}  # fmt: skip
EYES = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip


def qwen3_vl():
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}}
    config = transformers.Qwen3VLConfig(text_config=TEXT | rope, vision_config=QWEN_EYES, tie_word_embeddings=True)
    return transformers.Qwen3VLForConditionalGeneration(config)


def gemma3():
    window = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
    config = transformers.Gemma3Config(
        text_config=TEXT | window, vision_config=EYES | {"model_type": "siglip_vision_model"}, mm_tokens_per_image=4
    )
    return transformers.Gemma3ForConditionalGeneration(config)


def mistral3():
    config = transformers.Mistral3Config(
        text_config=TEXT | {"model_type": "mistral"},
        vision_config=EYES | {"model_type": "pixtral", "head_dim": 16},
        tie_word_embeddings=False,
    )
    return transformers.Mistral3ForConditionalGeneration(config)


@pytest.fixture(scope="module", params=[qwen3_vl, gemma3, mistral3], ids=lambda make: make.__name__)
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    for seed, name in enumerate(("instruct", "thinking")):
        torch.manual_seed(seed)
        model = request.param().to(torch.bfloat16)
        with torch.no_grad():
            for tensor in model.parameters():  # so that every layer speaks
                tensor.normal_(std=0.3)
        model.save_pretrained(folder / name)
        live.tokenizer().save_pretrained(folder / name)
    return folder / "instruct", folder / "thinking"


def test_live_logits_and_greedy_text_are_those_of_the_merged_folder(pair, tmp_path):
    engine = open_engine("transformers", Recipe.between(*pair, 0.0))
    save(merge(Recipe.between(*pair, 0.5)), tmp_path / "merged")
    fresh = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "merged", dtype="auto").eval()
    tokens = torch.tensor([list(range(40, 60)), list(range(60, 80))])
    prompt = "34 a-1 b+2 = ?"
    with engine.at(0.5), torch.inference_mode():
        assert torch.equal(engine.model(tokens).logits, fresh(tokens).logits)
        (answer,) = engine.generate([prompt], Sampler(temperature=0, max_tokens=12), [0])
    asked = engine.tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
    plain = fresh.generate(asked, do_sample=False, max_new_tokens=12, eos_token_id=[256, 257])[0, asked.shape[1] :]
    assert answer.num_tokens == len(plain)
    kept = [token for token in plain.tolist() if token not in (256, 257)]
    assert answer.text == engine.tokenizer.decode(kept, skip_special_tokens=False)


def test_a_model_that_is_code_of_its_own_is_refused_with_a_way_out(tmp_path):
    import json

    folder = live.write(tmp_path / "m", 0)
    (folder / "modeling_own.py").write_text("raise SystemExit('this must not run')")
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "modeling_own.Config", "AutoModelForCausalLM": "modeling_own.Model"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "own", "auto_map": own}))
    with pytest.raises(EngineError, match="never run here") as error:
        open_engine("transformers", Recipe.between(folder, folder, 0.0))
    assert len(str(error.value)) < 1500


@pytest.mark.parametrize(
    "asked", [{"attn_implementation": "them/fast"}, {"text_config": {"_attn_implementation": {"": "a/b"}}}]
)
def test_a_config_that_names_a_kernel_of_the_hub_is_refused_before_transformers_fetches_it(
    asked, tmp_path, monkeypatch
):
    import json

    fetched = []
    monkeypatch.setattr("transformers.integrations.hub_kernels.get_kernel", lambda *names, **_: fetched.append(names))
    monkeypatch.setattr("transformers.integrations.hub_kernels.is_kernels_available", lambda: True)
    folder = live.write(tmp_path / "m", 0)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | asked))
    with pytest.raises(EngineError, match=r"asks for code from elsewhere: .*implementation"):
        open_engine("transformers", Recipe.between(folder, folder, 0.0))
    assert fetched == []
