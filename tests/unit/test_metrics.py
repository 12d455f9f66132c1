"""Rates, intervals and their coverage, against hand-worked numbers and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from balanced_thinking.errors import EvaluationError
from balanced_thinking.evaluation.metrics import (
    decode_bits,
    encode_bits,
    hierarchical_bootstrap,
    paired_difference,
    seed_difference,
    summarise,
    t_interval,
    t_quantile,
)


def row(correct, malformed=None, truncated=False, think=10, answer=1):
    return {
        "correct": correct,
        "malformed": malformed,
        "truncated": truncated,
        "think_tokens": think,
        "answer_tokens": answer,
    }


def test_summary_by_hand():
    rows = [
        row(True, think=10),
        row(False, "no-answer", True, think=20, answer=None),
        row(True, "order", think=30, answer=3),
        row(False, "no-answer", think=None, answer=None),
    ]
    summary = summarise(rows)
    assert summary == {
        "n": 4,
        "accuracy": 0.5,
        "accuracy_se": 0.25,  # sqrt(0.5 * 0.5 / 4)
        "malformed": 0.75,
        "malformed_kinds": {"no-answer": 0.5, "order": 0.25},
        "truncated": 0.25,
        "correct": "a0",  # 1010 0000
        "think_tokens": 20.0,  # (10 + 20 + 30) / 3
        "answer_tokens": 2.0,
    }


def test_summary_of_an_arm_without_think():
    summary = summarise([row(True, "no-think", think=None), row(True, "no-think", think=None)], expects_think=False)
    assert (summary["malformed"], summary["malformed_kinds"], summary["think_tokens"]) == (None, None, None)
    assert (summary["accuracy"], summary["accuracy_se"], summary["answer_tokens"]) == (1.0, 0.0, 1.0)


def test_summary_of_nothing_is_refused():
    with pytest.raises(EvaluationError, match="no questions"):
        summarise([])


@pytest.mark.parametrize("n", [1, 7, 8, 9, 1000])
def test_bits_come_back(n):
    bits = np.random.default_rng(n).random(n) < 0.5
    text = encode_bits(bits)
    assert len(text) == 2 * math.ceil(n / 8)
    assert (decode_bits(text, n) == bits).all()


def test_bits_by_hand():
    assert encode_bits([True]) == "80"
    assert encode_bits([False] * 7 + [True, True]) == "0180"
    assert decode_bits("0180", 9).tolist() == [False] * 7 + [True, True]


@pytest.mark.parametrize(("text", "n"), [("zz", 8), ("8", 4), ("80", 9), ("8080", 8), ("ff", 7)])
def test_bad_bits_are_refused(text, n):
    with pytest.raises(EvaluationError):
        decode_bits(text, n)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 9, 10, 30, 99, 100, 101, 250, 3999])
@pytest.mark.parametrize("probability", [0.5, 0.6, 0.95, 0.975, 0.995, 0.025])
def test_t_quantile_against_scipy(degrees, probability):
    assert t_quantile(probability, degrees) == pytest.approx(stats.t.ppf(probability, degrees), rel=1e-8, abs=1e-8)


def test_t_quantile_refuses_nonsense():
    for probability, degrees in ((0.0, 3), (1.0, 3), (0.5, 0)):
        with pytest.raises(EvaluationError):
            t_quantile(probability, degrees)


def test_paired_difference_by_hand():
    result = paired_difference([1, 1, 0, 1], [0, 1, 0, 0])  # d = 1, 0, 0, 1
    assert result.difference == 0.5
    assert result.standard_error == pytest.approx(math.sqrt(1 / 3) / 2)  # std = sqrt(4 * 0.25 / 3)
    assert result.high - 0.5 == pytest.approx(3.182446305284263 * math.sqrt(1 / 3) / 2)
    assert result.n == 4


@pytest.mark.parametrize("n", [2, 3, 50, 1000])
def test_paired_difference_against_scipy(n):
    rng = np.random.default_rng(n)
    a, b = rng.normal(size=n), rng.normal(size=n)
    interval = stats.ttest_rel(a, b).confidence_interval(0.95)
    result = paired_difference(a, b)
    assert (result.low, result.high) == pytest.approx((interval.low, interval.high), rel=1e-7)
    assert result.standard_error == pytest.approx(stats.sem(a - b))


def test_one_question_and_equal_arms():
    single = paired_difference([True], [False])
    assert single.difference == 1.0
    assert single.low == -math.inf
    equal = paired_difference([True, False, True], [True, False, True])
    assert (equal.difference, equal.low, equal.high) == (0.0, 0.0, 0.0)


def test_unpaired_input_is_refused():
    with pytest.raises(EvaluationError, match="3 and 2 questions"):
        paired_difference([1, 0, 1], [1, 0])
    with pytest.raises(EvaluationError, match="1 and 2 seeds"):
        seed_difference([[1, 0]], [[1, 0], [0, 1]])
    with pytest.raises(EvaluationError, match="2 to 3 questions"):
        hierarchical_bootstrap([[1, 0], [1, 0, 1]])
    with pytest.raises(EvaluationError):
        paired_difference([], [])


def test_one_seed_is_the_paired_interval_and_says_so():
    rng = np.random.default_rng(3)
    a, b = rng.random(400) < 0.6, rng.random(400) < 0.4
    result = seed_difference([a], [b])
    interval = stats.ttest_rel(a.astype(float), b.astype(float)).confidence_interval(0.95)
    assert result.questions == pytest.approx((interval.low, interval.high), rel=1e-7)
    assert result.seeds is None
    assert not result.resolved, "one seed cannot show the spread over seeds"
    assert "one seed" in result.basis


def test_t_interval_over_seeds_against_scipy():
    means = [0.03, 0.05, 0.01]
    assert t_interval(means) == pytest.approx(stats.t.interval(0.95, 2, np.mean(means), stats.sem(means)))
    assert t_interval([0.1]) == (-math.inf, math.inf)


def test_resolved_needs_both_intervals():
    rng = np.random.default_rng(0)
    b = [rng.random(2000) < 0.5 for _ in range(3)]
    # Every seed gains clearly, but by very different amounts: sure over questions, not over three seeds.
    gains = (0.02, 0.05, 0.30)
    a = [np.where(rng.random(2000) < gain, True, row) for gain, row in zip(gains, b, strict=True)]
    spread = seed_difference(a, b, replicates=500)
    assert spread.questions[0] > 0.0
    assert spread.seeds is not None
    assert spread.seeds[0] < 0.0
    assert not spread.resolved
    a = [np.where(rng.random(2000) < 0.2, True, row) for row in b]
    steady = seed_difference(a, b, replicates=500)
    assert steady.resolved
    assert steady.difference == pytest.approx(np.mean(a) - np.mean(b))
    assert seed_difference(b, a, replicates=500).resolved


def test_bootstrap_repeats_itself_and_follows_shared_questions():
    rng = np.random.default_rng(1)
    shared = rng.normal(size=300)
    table = [shared + 0.01 * rng.normal(size=300) for _ in range(4)]
    interval = hierarchical_bootstrap(table, replicates=1000)
    assert interval == hierarchical_bootstrap(table, replicates=1000)
    # Four seeds that all depend on the same questions know no more than one: se = 1 / sqrt(300), not / sqrt(1200).
    assert (interval[1] - interval[0]) / 2 == pytest.approx(1.96 * shared.std() / math.sqrt(300), rel=0.1)


def test_coverage_on_simulated_runs():
    """Seed effects, question effects and noise of known size: how often an interval holds the true mean."""
    rng = np.random.default_rng(7)
    trials, seeds, n, true = 300, 5, 200, 0.05
    missed = {"t": 0, "one seed": 0, "bootstrap": 0, "both": 0}
    for trial in range(trials):
        seed_effect = 0.05 * rng.normal(size=(seeds, 1))
        question_effect = 0.5 * rng.normal(size=n)
        table = true + seed_effect + question_effect + 0.5 * rng.normal(size=(seeds, n))
        # The t interval is about these questions, the paired one about this seed, the bootstrap about both.
        t_misses = misses(t_interval(table.mean(axis=1) - question_effect.mean()), true)
        one = paired_difference(table[0] - seed_effect[0], np.zeros(n))
        bootstrap_misses = misses(hierarchical_bootstrap(list(table), replicates=200, seed=trial), true)
        missed["t"] += t_misses
        missed["one seed"] += misses((one.low, one.high), true)
        missed["bootstrap"] += bootstrap_misses
        missed["both"] += bootstrap_misses and misses(t_interval(table.mean(axis=1)), true)
    share = {name: count / trials for name, count in missed.items()}
    assert 0.01 <= share["t"] <= 0.09  # 0.05 -+ 3 standard errors of 300 trials
    assert 0.01 <= share["one seed"] <= 0.09
    assert share["bootstrap"] <= 0.14  # too narrow with five seeds, hence the second interval
    assert share["both"] <= min(0.11, share["bootstrap"])  # near 0.05, not below: both intervals see the same data


def misses(interval, true):
    return not interval[0] <= true <= interval[1]
