"""How sure a difference is, against SciPy's own functions, and how often the answers are right."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from tlmtl.compare import stats

VALUES = st.lists(st.integers(-20, 20).map(lambda whole: whole / 8), min_size=2, max_size=9)


@given(VALUES)
def test_the_interval_is_that_of_a_paired_t_test(values):
    found = stats.paired(values)
    assert found.n == len(values) and found.mean == pytest.approx(np.mean(values))
    if np.std(values) > 0:
        theirs = scipy_stats.ttest_rel(values, np.zeros(len(values))).confidence_interval()
        assert [found.mean - found.half, found.mean + found.half] == pytest.approx([theirs.low, theirs.high])
    else:
        assert found.half == 0


@given(VALUES)
def test_sign_flips_are_those_of_a_permutation_test(values):
    theirs = scipy_stats.permutation_test(
        (np.array(values),), lambda x: abs(np.mean(x)), permutation_type="samples", n_resamples=np.inf,
        alternative="greater", vectorized=False,
    )  # fmt: skip
    assert stats.sign_flip(values) == pytest.approx(theirs.pvalue)


@pytest.mark.parametrize(("n", "least"), [(1, 1), (2, 0.5), (3, 0.25), (5, 0.0625), (6, 0.03125), (8, 0.0078125)])
def test_the_least_p_is_reached_when_all_differences_have_one_sign(n, least):
    assert stats.least_p(n) == least == stats.sign_flip(np.arange(1, n + 1) / 7)
    assert stats.sign_flip(np.full(n, 0.1)) == least  # sums of tenths are equal but for rounding


def test_edges():
    assert stats.paired([]).n == 0 and np.isnan(stats.paired([]).mean)
    one = stats.paired([0.25, np.nan])
    assert (one.mean, one.n, one.p, one.least_p) == (0.25, 1, 1.0, 1.0) and np.isnan(one.half)
    assert stats.sign_flip([0, 0, 0]) == 1 and stats.paired([0.5, 0.5, 0.5]).half == 0


def test_beyond_twenty_pairs_flips_are_drawn():
    drawn = np.random.default_rng(1).normal(0.4, 1, 24)
    exact_nearby = scipy_stats.ttest_1samp(drawn, 0).pvalue
    assert stats.sign_flip(drawn) == stats.sign_flip(drawn) == pytest.approx(exact_nearby, abs=0.01)
    assert stats.sign_flip(np.ones(30)) == stats.least_p(30) == 1 / 100_001


def test_holm_by_hand_and_missing_ones_do_not_count():
    assert stats.holm([0.01, np.nan, 0.04, 0.03]).tolist() == pytest.approx([0.03, np.nan, 0.06, 0.06], nan_ok=True)
    assert stats.holm([0.5, 0.9]).tolist() == [1, 1] and stats.holm([]).tolist() == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_the_plain_p_and_bonferroni(ps):
    found = stats.holm(ps)
    assert (found >= ps).all() and (found <= np.minimum(np.array(ps) * len(ps), 1)).all()
    order = np.argsort(ps, kind="stable")
    assert (np.diff(found[order]) >= 0).all()


def test_a_bootstrap_of_a_mean_is_that_of_scipy():
    values = np.random.default_rng(0).normal(0.3, 1, 200)
    drawn = stats.resamples(200)
    assert drawn.shape == (2000, 200) and (drawn.sum(axis=1) == 200).all()
    low, high = stats.bootstrap(drawn @ values / 200)
    theirs = scipy_stats.bootstrap((values,), np.mean, n_resamples=9999, method="percentile", rng=1).confidence_interval
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.015)
    assert np.isnan(stats.bootstrap([np.nan])).all()


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=9))
def test_the_front_is_what_nothing_beats(points):
    quality, cost = [q for q, _ in points], [c for _, c in points]
    beaten = [any(q >= p and c <= d and (q > p or c < d) for q, c in points) for p, d in points]
    assert stats.pareto(quality, cost).tolist() == [not one for one in beaten]


def test_a_point_that_was_not_measured_is_not_on_the_front():
    assert stats.pareto([1, np.nan, 2], [1, 0, np.nan]).tolist() == [True, False, False]


def alarms(n: int, shift: float, draws: int, seed: int = 0) -> tuple[float, float]:
    """How often n pairs with a mean of `shift` standard deviations give p < .05, and how often an interval without 0."""
    found = [stats.paired(one) for one in np.random.default_rng(seed).normal(shift, 1, (draws, n))]
    return (
        float(np.mean([one.p < 0.05 for one in found])),
        float(np.mean([abs(one.mean) > one.half for one in found])),
    )


def test_one_method_against_itself():
    """200 comparisons: at most as many false alarms as the binomial law allows at .05 (99.9 %)."""
    most = scipy_stats.binom.ppf(0.999, 200, 0.05) / 200
    by_p, by_interval = alarms(8, 0.0, 200)
    assert by_p <= most and by_interval <= most
    assert stats.least_p(5) > 0.05 and alarms(5, 3.0, 50)[0] == 0  # five seeds can't reach .05


def test_a_difference_of_two_deviations_is_found():
    assert alarms(5, 2.0, 500)[1] > 0.85  # the paired t-interval with 5 seeds
    assert alarms(8, 2.0, 500)[0] > 0.98  # the permutation p with 8
