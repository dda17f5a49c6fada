"""λ per request: every row of a batch is answered as by the folder that `merge` writes at its λ."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import live
from interpole.checkpoints.checkpoint import open_checkpoint
from interpole.checkpoints.save import save
from interpole.engines.base import Request
from interpole.engines.per_request import PerRequestEngine, Token, open_per_request
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
        for key, generation, error in finished:
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


def test_an_engine_at_one_lambda_refuses_a_request_with_its_own(pair):
    plain = TransformersEngine(open_checkpoint(pair[0]))
    with pytest.raises(EngineError, match="takes no lam"):
        plain.add(Request(0, "x", GREEDY, 0, lam=0.5))


def test_the_ends_of_a_recipe_are_taken_as_it_merges_them(pair, engine):
    recipe = Recipe.between(*pair, 0.0, rules=[{"kind": "attention", "lambda": 0.0}])
    ruled = open_per_request(recipe, dtype="float32")
    requests = [Request(0, "x", GREEDY, 0, lam=1.0)]
    expected = TransformersEngine(merge(recipe.at(1.0)), dtype="float32").generate(["x"], GREEDY, [0])
    assert run(ruled, requests)[0] == {0: expected[0]}
    assert run(engine, requests)[0] != {0: expected[0]}
