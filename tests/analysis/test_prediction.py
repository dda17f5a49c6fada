"""The prediction's mathematics: where curves cross, how many λ are asked, what parts add; checked against plain references."""

import numpy as np
import pytest
from scipy.special import expit, logit

from interpole.analysis.prediction import attribute, next_lam, predict


def chances(lams, middles, slope):
    """Margins that are straight in λ, each question with its own middle; P as a plain sampler gives it."""
    margins = slope * (np.asarray(lams)[None] - np.asarray(middles)[:, None])
    return expit(margins), margins


def asked(share, tolerance=1 / 64, ends=(0.0, 1.0)):
    """All λ that bisection asks of a curve."""
    lams = []
    while (lam := next_lam(lams, [share(one) for one in lams], tolerance, ends)) is not None:
        lams.append(lam)
    return sorted(lams)


def test_bisection_finds_all_three_levels_with_a_few_lambdas():
    middles = np.random.default_rng(0).normal(0.47, 0.05, 40)
    lams = asked(lambda lam: chances([lam], middles, 15)[0].mean())
    assert len(lams) <= 17
    found = predict(np.array(lams), *chances(lams, middles, 15))
    fine = np.linspace(0, 1, 100_001)
    curve = chances(fine, middles, 15)[0].mean(axis=0)
    for interval, level in ((found.on, 0.05), (found.mid, 0.5), (found.off, 0.95)):
        true = np.interp(level, curve, fine)
        assert interval.value == pytest.approx(true, abs=0.002)
        assert interval.low < true < interval.high
    assert found.at(0.55) == pytest.approx(np.interp(0.55, fine, curve), abs=0.02)
    assert found.notes == ()


def test_a_wide_tolerance_asks_less_and_nothing_is_asked_twice():
    share = lambda lam: float(expit(20 * (lam - 0.3)))  # noqa: E731
    few, many = asked(share, 1 / 8), asked(share, 1 / 256)
    assert len(few) < len(many)
    assert len(set(many)) == len(many)
    assert asked(lambda _: 1.0) == asked(lambda _: 0.0) == [0.0, 1.0]


def test_intervals_cover_other_questions_and_one_question_has_none():
    rng, held = np.random.default_rng(1), 0
    lams = np.linspace(0, 1, 21)
    for seed in range(100):
        found = predict(lams, *chances(lams, rng.normal(0.5, 0.06, 16), 15), resamples=300, seed=seed)
        held += found.mid.includes(0.5)
    assert 88 <= held <= 100
    alone = predict(lams, *chances(lams, [0.4], 15))
    assert alone.mid.value == pytest.approx(0.4, abs=0.002)
    assert np.isnan(alone.mid.low)


def test_levels_that_are_not_reached_are_none_with_the_reason():
    lams = np.linspace(0, 1, 11)
    early = predict(lams, *chances(lams, [0.0, 0.05], 12))
    assert early.on is None
    assert "passed before λ=0" in early.notes[0]
    late = predict(lams, *chances(lams, [0.8, 0.9], 12))
    assert late.off is None
    assert "95% is not reached" in late.notes[0]
    falling = np.array([[0.0, 0.6, 0.3, 1.0]] * 2)
    assert "falls by 30.0 points" in predict(np.array([0, 0.3, 0.6, 1.0]), falling, logit(0.5 * falling + 0.1)).notes[0]


def test_parts_are_ranked_and_their_shares_add_up_where_the_margin_is_a_sum():
    rng = np.random.default_rng(2)
    start = rng.normal(-6, 1, 30)
    effects = {"norm": rng.normal(0.1, 0.05, 30), "ffn": rng.normal(7, 1, 30), "attention": rng.normal(-2, 0.3, 30)}
    whole = start + sum(effects.values())
    found = attribute(start, whole, {name: start + effect for name, effect in effects.items()})
    assert [part.name for part in found.parts] == ["ffn", "attention", "norm"]
    assert found.together.value == pytest.approx(1)
    for part in found.parts:
        assert part.change.value == pytest.approx(effects[part.name].mean())
        assert part.share.value == pytest.approx(effects[part.name].mean() / (whole - start).mean())
        assert part.change.low < part.change.value < part.change.high
    crossed = attribute(start, whole + 3, {name: start + effect for name, effect in effects.items()})
    assert crossed.together.value == pytest.approx((whole - start).mean() / (whole + 3 - start).mean())
    still = attribute(start, start, {"ffn": start})
    assert np.isnan(still.together.value)
