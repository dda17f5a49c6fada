"""λ per request: every row of a batch is answered as by the folder that `merge` writes at its λ."""

import gc
import shutil
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

import live
from interpole.checkpoints.checkpoint import open_checkpoint
from interpole.checkpoints.save import save
from interpole.engines.base import Request, Token
from interpole.engines.per_request import PerRequestEngine, open_per_request
from interpole.engines.rows import BatchRow
from interpole.engines.scripted import ScriptedEngine
from interpole.engines.transformers import TransformersEngine
from interpole.errors import EngineError
from interpole.merging.merged import merge
from interpole.merging.recipe import Recipe
from interpole.records import Sampler

GREEDY = Sampler(temperature=0, max_tokens=12)
LAMS = (0.0, 0.45, 1.0)
PROMPTS = ["34 a-1 b+2 = ?", "x", "the quick brown fox", "12"]
KINDS = {"tied": {}, "untied": {"tied": False}, "mixture of experts": {"moe": True, "tied": False}}


def widen(folder):
    """The same weights in float32: those of a merge of them are then not rounded to bfloat16."""
    weights = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return [widen(one) for one in live.pair(folder, **KINDS[request.param])]


@pytest.fixture(scope="module")
def engine(pair):
    return PerRequestEngine(*map(open_checkpoint, pair), dtype="float32", max_rows=6)


def run(engine, requests):
    """By key: what was generated, and its tokens with their log-probabilities."""
    for request in requests:
        engine.add(request)
    answers, tokens = {}, {request.key: [] for request in requests}
    while engine.busy:
        finished = engine.step()
        for token in engine.events():
            tokens[token.key].append(token)
        for key, generation, error, _ in finished:
            assert error is None
            answers[key] = generation
    return answers, tokens


def logprobs(model, prompt, tokens):
    """Log-probabilities (T, V) of what follows each prefix, by one plain forward pass."""
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)


def test_every_row_is_answered_as_by_the_folder_merged_at_its_lambda(pair, engine, tmp_path):
    requests = [
        Request(i * len(LAMS) + j, prompt, GREEDY, 0, lam=lam, top_logprobs=3)
        for i, prompt in enumerate(PROMPTS)
        for j, lam in enumerate(LAMS)
    ]
    answers, tokens = run(engine, requests)
    for j, lam in enumerate(LAMS):
        save(merge(Recipe.between(*pair, lam)), tmp_path / str(lam))
        alone = TransformersEngine(open_checkpoint(tmp_path / str(lam)), dtype="float32")
        expected = alone.generate(PROMPTS, GREEDY, range(len(PROMPTS)))
        model = AutoModelForCausalLM.from_pretrained(tmp_path / str(lam), dtype=torch.float32).eval()
        for request in requests[j :: len(LAMS)]:
            assert answers[request.key] == expected[request.key // len(LAMS)]
            ours = tokens[request.key]
            ids = [token.token_id for token in ours]
            plain = logprobs(model, engine.tokenizer(request.prompt)["input_ids"], ids)
            assert [token.logprob for token in ours] == pytest.approx(plain[range(len(ids)), ids].tolist(), abs=1e-4)
            for token, row in zip(ours, plain, strict=True):
                values, best = row.topk(3)
                assert [i for i, _ in token.top] == best.tolist()
                assert [value for _, value in token.top] == pytest.approx(values.tolist(), abs=1e-4)


def test_a_recipe_whose_points_lie_on_no_straight_line_is_refused(pair):
    with pytest.raises(EngineError, match="linear merges, not for slerp"):
        open_per_request(Recipe.between(*pair, 0.0, method="slerp"))


def test_tokens_come_as_they_are_drawn_and_only_those_asked_for_have_log_probabilities(engine):
    _, tokens = run(engine, [Request(5, "x", GREEDY, 0, lam=0.3), Request(6, "x", GREEDY, 0, lam=0.3, top_logprobs=0)])
    assert [one.token_id for one in tokens[5]] == [one.token_id for one in tokens[6]]
    assert tokens[5][0] == Token(5, tokens[5][0].token_id)
    assert all(one.logprob < 0 and one.top == () for one in tokens[6])


def test_a_cancelled_request_is_never_answered_wherever_it_is(engine):
    for key in range(9):
        engine.add(Request(key, "x" * (key + 1), GREEDY, 0, lam=0.5))
    engine.step()
    assert (engine.num_running, engine.num_waiting) == (6, 3)
    assert engine.cancel(2)
    assert engine.cancel(8)
    assert not engine.cancel(8)
    assert (engine.num_running, engine.num_waiting) == (5, 2)
    answered = set()
    while engine.busy:
        answered |= {one.key for one in engine.step()}
    assert answered == {0, 1, 3, 4, 5, 6, 7}


@pytest.mark.parametrize("lam", [None, -0.1, 1.1, float("nan")])
def test_a_request_without_a_lambda_between_0_and_1_is_refused(engine, lam):
    with pytest.raises(EngineError, match="between 0 and 1"):
        engine.add(Request(0, "x", GREEDY, 0, lam=lam))
    assert engine.num_waiting == 0


def test_an_engine_refuses_what_it_does_not_do_with_a_request(pair):
    plain = TransformersEngine(open_checkpoint(pair[0]))
    written = ScriptedEngine([{"responses": ["7"]}])
    plain.add(Request(0, "x", GREEDY, 0, min_p=0.1))
    for engine, name, value in ((plain, "lam", 0.5), (plain, "top_logprobs", 0), (written, "min_p", 0.1)):
        with pytest.raises(EngineError, match=f"takes no {name}"):
            engine.add(Request(1, "x", GREEDY, 0)._replace(**{name: value}))


def test_the_ends_of_a_recipe_are_taken_as_it_merges_them(pair, engine):
    recipe = Recipe.between(*pair, 0.0, rules=[{"kind": "attention", "lambda": 0.0}])
    ruled = open_per_request(recipe, dtype="float32")
    requests = [Request(0, "x", GREEDY, 0, lam=1.0)]
    expected = TransformersEngine(merge(recipe.at(1.0)), dtype="float32").generate(["x"], GREEDY, [0])
    assert run(ruled, requests)[0] == {0: expected[0]}
    assert run(engine, requests)[0] != {0: expected[0]}


# ── exact, whatever the family ───────────────────────────────────────────────────────────────────────────────────

SMALL = {
    "vocab_size": 261,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
FAMILIES = {
    "gemma": {},
    "gemma2": {"query_pre_attn_scalar": 16},
    "gemma3_text": {"query_pre_attn_scalar": 16},
    "glm4": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0},
    "granite": {},
    "llama": {"attention_bias": True, "mlp_bias": True},
    "ministral3": {},
    "mistral": {},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "olmo2": {},
    "olmo3": {},
    "olmoe": MIXTURE | {"norm_topk_prob": True},
    "phi3": {},
    "qwen2": {},
    "qwen2_moe": MIXTURE | {"shared_expert_intermediate_size": 24},
    "qwen3": {},
    "qwen3_moe": MIXTURE,
    "smollm3": {},
}


def family(folder, name, seed, dtype=torch.float32, **settings):
    """A model folder of this family in which no parameter is what it begins with: norms and biases differ, too."""
    config = AutoConfig.for_model(name, **SMALL | FAMILIES.get(name, {}) | settings)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    live.tokenizer().save_pretrained(folder)
    return folder


def between(folders, lam):
    """The plain model at λ."""
    ours, theirs = (AutoModelForCausalLM.from_pretrained(one, dtype=torch.float32).eval() for one in folders)
    with torch.no_grad():
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            a.lerp_(b, lam)
    return ours


def next_token(engine, requests):
    """By key: log-probabilities (V,) of the first token, as the engine tells them."""
    size = engine.model.get_output_embeddings().weight.shape[0]
    _, tokens = run(engine, [one._replace(top_logprobs=size) for one in requests])
    return {key: torch.tensor([value for _, value in sorted(one.top)]) for key, (one, *_) in tokens.items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_of_three_lambdas_has_the_logits_of_three_models(tmp_path, name):
    folders = [family(tmp_path / str(seed), name, seed) for seed in (0, 1)]
    engine = PerRequestEngine(*map(open_checkpoint, folders), dtype="float32")
    one = Sampler(temperature=0, max_tokens=1)
    requests = [Request(i, PROMPTS[i % 4], one, 0, lam=LAMS[i % 3]) for i in range(12)]
    found = next_token(engine, requests)
    for i, lam in enumerate(LAMS):
        model = between(folders, lam)
        for request in requests[i::3]:
            tokens = torch.tensor([engine.tokenizer(request.prompt)["input_ids"]])
            with torch.inference_mode():
                expected = model(tokens).logits[0, -1].log_softmax(-1)
            assert (found[request.key] - expected).abs().max() < 1e-4


def test_in_bfloat16_the_ends_are_bit_equal_and_between_them_is_one_rounding(tmp_path):
    folders = [family(tmp_path / str(seed), "qwen3", seed, torch.bfloat16) for seed in (0, 1)]
    engine = PerRequestEngine(*map(open_checkpoint, folders))
    one = Sampler(temperature=0, max_tokens=1)
    for lam in LAMS:
        save(merge(Recipe.between(*folders, lam)), tmp_path / f"at-{lam}")
        model = AutoModelForCausalLM.from_pretrained(tmp_path / f"at-{lam}", dtype=torch.bfloat16).eval()
        tokens = torch.tensor([engine.tokenizer("34 a-1 b+2 = ?")["input_ids"]] * 2)
        with torch.inference_mode():
            expected = model(tokens).logits[0, -1].float().log_softmax(-1)
        (found, _) = next_token(engine, [Request(key, "34 a-1 b+2 = ?", one, 0, lam=lam) for key in (0, 1)]).values()
        assert torch.equal(found, expected) if lam in (0, 1) else 0 < (found - expected).abs().max() < 0.2


def test_weights_that_are_equal_in_both_are_held_once(tmp_path):
    folder = family(tmp_path / "a", "qwen3", 0)
    weights = load_file(folder / "model.safetensors")
    changed = "model.layers.1.mlp.up_proj.weight"
    shutil.copytree(folder, tmp_path / "b")
    save_file(weights | {changed: weights[changed] + 1}, tmp_path / "b/model.safetensors", {"format": "pt"})
    engine = PerRequestEngine(open_checkpoint(folder), open_checkpoint(tmp_path / "b"), dtype="float32")
    assert [name for name, module in engine.model.named_modules() if "forward" in vars(module)] == [
        changed.removesuffix(".weight")
    ]


def test_a_layer_without_a_form_for_lambda_per_row_is_refused_by_name_unless_it_is_equal_in_both(tmp_path):
    folders = [family(tmp_path / str(seed), "cohere", seed) for seed in (0, 1)]
    with pytest.raises(EngineError, match=r"norm\.weight differs .* not known for cohere\.CohereLayerNorm"):
        PerRequestEngine(*map(open_checkpoint, folders), dtype="float32")
    ours, theirs = (load_file(folder / "model.safetensors") for folder in folders)
    theirs |= {name: tensor for name, tensor in ours.items() if "norm" in name}
    save_file(theirs, folders[1] / "model.safetensors", {"format": "pt"})
    PerRequestEngine(*map(open_checkpoint, folders), dtype="float32")


def test_code_that_reads_a_weight_past_its_layer_is_noticed_at_the_start(tmp_path, monkeypatch):
    from transformers.models.llama.modeling_llama import LlamaMLP

    def forward(self, x):
        up = torch.nn.functional.linear(x, self.up_proj.weight)
        return self.down_proj(self.act_fn(self.gate_proj(x)) * up)

    folders = [family(tmp_path / str(seed), "llama", seed, mlp_bias=False) for seed in (0, 1)]
    monkeypatch.setattr(LlamaMLP, "forward", forward)
    with pytest.raises(EngineError, match="at λ = 1 the model is not what it is with one checkpoint alone"):
        PerRequestEngine(*map(open_checkpoint, folders), dtype="float32")


# ── a batch that others join and leave ───────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    folders = [family(folder / str(seed), "qwen3", seed) for seed in (0, 1)]
    return PerRequestEngine(*map(open_checkpoint, folders), dtype="float32", max_rows=5)


@cache
def alone(engine, prompt, lam, seed=0, sampler=GREEDY):
    """The answer to one request that has the engine to itself."""
    return run(engine, [Request(0, prompt, sampler, seed, lam=lam)])[0][0]


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lams=st.lists(st.sampled_from([0.0, 0.2, 0.45, 0.8, 1.0]), min_size=2, max_size=8),
    order=st.randoms(use_true_random=False),
)
def test_permuting_the_lambdas_of_a_batch_permutes_the_answers(small, lams, order):
    requests = [Request(key, "34 a-1 = ?", GREEDY, 0, lam=lam) for key, lam in enumerate(lams)]
    permuted = list(range(len(lams)))
    order.shuffle(permuted)
    answers, _ = run(small, requests)
    moved, _ = run(small, [requests[i]._replace(key=key) for key, i in enumerate(permuted)])
    assert [moved[key] for key in range(len(lams))] == [answers[i] for i in permuted]
    assert answers == {one.key: alone(small, one.prompt, one.lam) for one in requests}


def test_an_answer_does_not_depend_on_who_joins_leaves_or_is_cancelled(small):
    random = np.random.default_rng(0)
    warm = Sampler(temperature=0.9, top_p=1, top_k=0, max_tokens=30)
    requests, answers, cancelled = {}, {}, set()
    step = 0
    while small.busy or step < 80:
        step += 1
        if step < 80 and random.random() < 0.4:
            key, lam = len(requests), float(random.choice([0, 0.3, 0.7, 1]))
            prompt = PROMPTS[key % 4] + "+1" * int(random.integers(6))
            requests[key] = Request(key, prompt, warm if key % 2 else GREEDY, key, lam=lam)
            small.add(requests[key])
        if random.random() < 0.1 and small.cancel(victim := int(random.integers(len(requests) + 1))):
            cancelled.add(victim)
        answers |= {one.key: one.generation for one in small.step()}
    assert answers.keys() | cancelled == requests.keys()
    assert not answers.keys() & cancelled
    assert len(cancelled) > 3
    for key, answer in answers.items():
        one = requests[key]
        assert answer == alone(small, one.prompt, one.lam, one.seed, one.sampler)


def test_a_thousand_requests_that_come_and_go_leave_nothing_behind(small):
    for key in range(1000):
        small.add(Request(key, "x", GREEDY, 0, lam=key % 5 / 4, top_logprobs=1))
        if key % 10 == 0:
            small.step()
        if key >= 4:
            small.cancel(key - 4)
    for key in range(996, 1000):
        assert small.cancel(key)
    assert (small.busy, small.num_running, small.num_waiting) == (False, 0, 0)
    gc.collect()
    assert not [one for one in gc.get_objects() if type(one) in (DynamicCache, BatchRow)]


# ── what fails ───────────────────────────────────────────────────────────────────────────────────────────────────


def drained(engine):
    """By key: the reason of its failure, empty where there is none."""
    found = {}
    while engine.busy:
        found |= {one.key: str(one.error or "") for one in engine.step()}
    return found


def test_a_row_that_is_not_finite_fails_alone(small, monkeypatch):
    rows = small._rows.rows
    forward = rows._forward

    def broken(tokens, batch):
        logits = forward(tokens, batch).clone()
        logits[[row.request.key == 1 for row in batch.rows]] = torch.nan
        return logits

    monkeypatch.setattr(rows, "_forward", broken)
    for key in range(3):
        small.add(Request(key, PROMPTS[key], GREEDY, 0, lam=0.5))
    found = drained(small)
    assert "not finite" in found.pop(1)
    assert found == {0: "", 2: ""}


@pytest.mark.parametrize(("length", "failed"), [(1, {0, 1, 2, 3}), (20, {4})], ids=["a token", "a prompt"])
def test_an_error_in_the_model_fails_what_was_in_it_and_no_more(small, monkeypatch, length, failed):
    """Four rows run when the fifth comes; the model fails over one token of the four, or over the prompt of the fifth."""
    for key in range(4):
        small.add(Request(key, PROMPTS[key], GREEDY, 0, lam=key / 4))
    small.step()
    original, times = small.model.forward, [0]

    def forward(input_ids, **rest):
        if input_ids.shape[1] == length and not times[0]:
            times[0] += 1
            raise RuntimeError("out of memory")
        return original(input_ids=input_ids, **rest)

    monkeypatch.setattr(small.model, "forward", forward)
    if length > 1:
        small.add(Request(4, "y" * length, GREEDY, 0, lam=0.5))
    found = drained(small)
    assert {key for key, reason in found.items() if reason} == failed
    assert all("the model failed: out of memory" in found[key] for key in failed)
    small.add(Request(0, PROMPTS[0], GREEDY, 0, lam=0.0))
    assert drained(small) == {0: ""}


def test_two_requests_of_one_key_are_refused(small):
    small.add(Request(0, "x", GREEDY, 0, lam=0.5))
    with pytest.raises(EngineError, match="two requests with the key 0"):
        small.add(Request(0, "x", GREEDY, 0, lam=0.5))
    small.abandon()
    assert not small.busy


def test_requests_without_a_lambda_take_that_of_the_engine(small):
    with small.at(0.45):
        (answer,) = small.generate(["x"], GREEDY, [0])
    assert answer == alone(small, "x", 0.45)
    assert small.where is None
    with pytest.raises(EngineError, match="λ = half"):
        small.load("half")
