"""λ per request over one copy of the weights: groups, drained between two λ, and none of them starves."""

import pytest

import live
from interpole.engines.base import Request
from interpole.engines.grouped import open_grouped
from interpole.engines.open import open_engine
from interpole.errors import EngineError
from interpole.merging.recipe import Recipe
from interpole.records import Sampler

GREEDY = Sampler(temperature=0, max_tokens=12)
LAMS = (0.0, 1.0, 0.45)
PROMPTS = ["34 a-1 b+2 = ?", "x", "12"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return Recipe.between(*live.pair(tmp_path_factory.mktemp("pair")), 0.0)


@pytest.fixture
def engine(recipe):
    return open_grouped(recipe, dtype="float32", patience_steps=20)


def until_idle(engine):
    """By key: what was generated; and the tokens that were told."""
    answers, tokens = {}, []
    while engine.busy:
        answers |= {one.key: one.generation for one in engine.step()}
        tokens += engine.events()
    return answers, tokens


def test_each_request_is_answered_at_its_lambda_whatever_else_is_asked_for(recipe, engine):
    jobs = [(prompt, lam) for prompt in PROMPTS for lam in LAMS]
    for key, (prompt, lam) in enumerate(jobs):
        engine.add(Request(key, prompt, GREEDY, 0, lam=lam))
    assert (engine.num_waiting, engine.num_running) == (9, 0)
    answers, tokens = until_idle(engine)
    alone = open_engine("transformers", recipe, dtype="float32")
    for lam in LAMS:
        with alone.at(lam):
            expected = alone.generate(PROMPTS, GREEDY, range(3))
        assert [answers[key] for key, job in enumerate(jobs) if job[1] == lam] == expected
    assert engine.num_turns == 2  # nine requests, three λ, the first of them at hand
    assert len(tokens) == sum(answer.num_tokens for answer in answers.values())


def test_who_comes_at_the_lambda_whose_turn_it_is_joins_the_batch(engine):
    engine.add(Request(0, "x", GREEDY, 0, lam=0.0))
    engine.step()
    engine.add(Request(1, "x", GREEDY, 0, lam=0.5))
    engine.add(Request(2, "x", GREEDY, 0, lam=0.0))
    engine.step()
    assert (engine.num_running, engine.num_waiting) == (2, 1)


@pytest.mark.parametrize(("patience", "starves"), [(20, False), (10**9, True)])
def test_a_stream_of_one_lambda_does_not_starve_another(recipe, patience, starves):
    engine = open_grouped(recipe, dtype="float32", patience_steps=patience)
    engine.add(Request(1000, "x", GREEDY, 0, lam=0.0))
    engine.step()
    engine.add(Request(-1, "x", GREEDY, 0, lam=1.0))
    answered_at = None
    for step in range(120):
        engine.add(Request(step, "x", GREEDY, 0, lam=0.0))
        if any(one.key == -1 for one in engine.step()):
            answered_at = step
            break
    assert (answered_at is None) == starves
    assert starves or answered_at <= patience + 2 * GREEDY.max_tokens + 2


def test_a_request_that_is_cancelled_while_it_waits_is_forgotten_and_moves_nothing(engine):
    engine.add(Request(0, "x", GREEDY, 0, lam=1.0))
    assert engine.cancel(0)
    assert not engine.cancel(0)
    assert not engine.busy
    engine.add(Request(1, "x", GREEDY, 0, lam=0.0))
    assert set(until_idle(engine)[0]) == {1}
    assert engine.num_turns == 0


def test_what_the_batch_refuses_is_refused_when_it_comes(engine):
    with pytest.raises(EngineError, match="does not fit"):
        engine.add(Request(0, "a" * 300, GREEDY, 0, lam=0.5))
    with pytest.raises(EngineError, match="λ = 2"):
        engine.add(Request(0, "x", GREEDY, 0, lam=2.0))
    engine.add(Request(0, "x", GREEDY, 0, lam=0.5))
    with pytest.raises(EngineError, match="two requests with the key 0"):
        engine.add(Request(0, "x", GREEDY, 0, lam=0.7))
    engine.abandon()
    assert not engine.busy
