"""token_weights and scale_loss: hand-worked numbers, the formula as loops in float64, the properties they promise."""

import doctest
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from balanced_thinking.core import linear_cross_entropy, loss
from balanced_thinking.core.loss import scale_loss, token_weights, weighted_linear_cross_entropy
from balanced_thinking.core.schedule import SegmentSchedule
from balanced_thinking.errors import ConfigError, DataError

WEIGHTS = {"think": 0.3, "answer": 0.7}


def make_batch(seed: int, *, batch: int = 5, seq: int = 17, vocab: int = 23) -> tuple[torch.Tensor, ...]:
    """Random logits (require grad), labels (out of range outside segments) and segment ids; one row lacks a segment."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, seq, vocab, generator=generator, dtype=torch.float64).float().requires_grad_()
    labels = torch.randint(0, vocab, (batch, seq), generator=generator)
    segment_ids = torch.randint(0, 3, (batch, seq), generator=generator)
    segment_ids[:, 0] = 0
    segment_ids[0][segment_ids[0] == 1] = 0
    labels[segment_ids == 0] = -100
    return logits, labels, segment_ids


def looped_loss(
    logits: torch.Tensor, labels: torch.Tensor, segment_ids: torch.Tensor, weights: Mapping[str, float], count: int
) -> float:
    """The formula of METHOD.md as loops in float64."""
    total = 0.0
    for row, target, ids in zip(logits.detach().double().numpy(), labels.numpy(), segment_ids.numpy(), strict=True):
        for segment, weight in enumerate(weights.values(), start=1):
            nll = [np.log(np.exp(row[t]).sum()) - row[t, target[t]] for t in np.flatnonzero(ids == segment)]
            total += weight * float(np.mean(nll)) if nll else 0.0
    return total / count


# ---------------------------------------------------------------------------------------------------- token_weights
def test_token_weights_hand_worked() -> None:
    """B = 2. Row 1: think 3 tokens, 0.6 / 3 / 2 = 0.1; answer 1 token, 0.4 / 1 / 2 = 0.2.

    Row 2 lacks think, its answer has 2 tokens: 0.4 / 2 / 2 = 0.1.
    """
    ids = torch.tensor([[0, 1, 1, 1, 2, 0], [0, 0, 0, 2, 2, 0]])
    got = token_weights(ids, {"think": 0.6, "answer": 0.4}, sequence_count=2)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, torch.tensor([[0, 0.1, 0.1, 0.1, 0.2, 0], [0, 0, 0, 0.1, 0.1, 0]]))


def test_pooled_token_weights_hand_worked() -> None:
    """The step has 4 think and 5 answer tokens: 0.6 / 4 = 0.15 and 0.4 / 5 = 0.08, whatever the row."""
    ids = torch.tensor([[0, 1, 1, 1, 2, 0], [0, 0, 0, 2, 2, 0]])
    weights = {"think": 0.6, "answer": 0.4}
    got = token_weights(ids, weights, sequence_count=2, segment_counts={"think": 4, "answer": 5})
    torch.testing.assert_close(got, torch.tensor([[0, 0.15, 0.15, 0.15, 0.08, 0], [0, 0, 0, 0.08, 0.08, 0]]))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16], ids=str)
def test_token_weights_of_any_integer_type_and_segment_number(dtype: torch.dtype) -> None:
    ids = torch.tensor([[4, 3, 2, 1, 1, 0]], dtype=dtype)
    got = token_weights(ids, {"summary": 1, "caption": 2, "reasoning": 3, "conclusion": 4}, sequence_count=1)
    torch.testing.assert_close(got, torch.tensor([[4.0, 3.0, 2.0, 0.5, 0.5, 0.0]]))


def test_each_segment_sums_to_its_weight_over_the_batch() -> None:
    _, _, ids = make_batch(3, batch=40, seq=50)
    got = token_weights(ids, WEIGHTS, sequence_count=len(ids))
    for segment, (name, weight) in enumerate(WEIGHTS.items(), start=1):
        rows_with_it = (ids == segment).any(dim=1).sum().item()
        assert got[ids == segment].sum().item() == pytest.approx(weight * rows_with_it / len(ids), rel=1e-5), name
    assert not got[ids == 0].any()


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (2, 3)])
def test_nothing_to_train_has_weight_zero(shape: tuple[int, int]) -> None:
    got = token_weights(torch.zeros(shape, dtype=torch.long), WEIGHTS, sequence_count=3)
    assert got.shape == shape
    assert not got.any()
    pooled = token_weights(
        torch.zeros(shape, dtype=torch.long), WEIGHTS, sequence_count=3, segment_counts={"think": 0, "answer": 0}
    )
    assert not pooled.any()


def test_weights_come_straight_from_a_schedule() -> None:
    got = token_weights(torch.tensor([[1, 2]]), SegmentSchedule().weights(0.0), sequence_count=1)
    torch.testing.assert_close(got, torch.tensor([[0.9, 0.1]]))


# ------------------------------------------------------------------------------------------------------- scale_loss
def test_scale_loss_hand_worked() -> None:
    """Vocabulary of 2, logits (0, ln 3): nll = ln 4 for label 0 and ln 4/3 for label 1.

    think: labels 0, 1 -> mean (ln 4 + ln 4/3) / 2 = 0.83699; answer: label 0 -> ln 4 = 1.38629.
    loss = 0.25 * 0.83699 + 0.75 * 1.38629 = 1.24897.
    """
    logits = torch.tensor([0.0, math.log(3)]).expand(1, 4, 2)
    got = scale_loss(
        logits,
        torch.tensor([[-100, 0, 1, 0]]),
        torch.tensor([[0, 1, 1, 2]]),
        {"think": 0.25, "answer": 0.75},
        sequence_count=1,
    )
    assert got.item() == pytest.approx(1.24897, abs=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_scale_loss_equals_the_formula(seed: int) -> None:
    logits, labels, ids = make_batch(seed)
    got = scale_loss(logits, labels, ids, WEIGHTS, sequence_count=7)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(looped_loss(logits, labels, ids, WEIGHTS, 7), rel=2e-5)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("weights", [WEIGHTS, {"think": 0.0, "answer": 1.0}, {"think": 2.0, "answer": 0.0}], ids=str)
def test_chunked_form_equals_the_reference(seed: int, weights: Mapping[str, float]) -> None:
    _, labels, ids = make_batch(seed)
    hidden = torch.randn(*labels.shape, 11).requires_grad_()
    head = torch.randn(23, 11).requires_grad_()
    wanted = scale_loss(hidden @ head.t(), labels, ids, weights, sequence_count=7)
    wanted_gradients = torch.autograd.grad(wanted, [hidden, head])
    per_token = token_weights(ids, weights, sequence_count=7)
    got, nll = weighted_linear_cross_entropy(
        hidden.flatten(0, 1), head, labels.flatten(), per_token.flatten(), chunk_rows=seed + 1
    )
    torch.testing.assert_close(got, wanted, rtol=2e-5, atol=0)
    torch.testing.assert_close((nll * per_token.flatten()).sum(), wanted.detach(), rtol=2e-5, atol=0)
    for gradient, expected in zip(torch.autograd.grad(got, [hidden, head]), wanted_gradients, strict=True):
        assert (gradient - expected).norm() < 2e-5 * expected.norm()


@pytest.mark.parametrize("times", [2, 7])
@pytest.mark.parametrize("segment", [1, 2])
def test_repeating_a_segment_changes_the_token_mean_but_not_the_loss(times: int, segment: int) -> None:
    logits, labels, ids = (x[1:2] for x in make_batch(1))
    repeats = torch.where(ids[0] == segment, times, 1)
    longer = [x.repeat_interleave(repeats, dim=1) for x in (logits, labels, ids)]

    def token_mean(logits: torch.Tensor, labels: torch.Tensor, ids: torch.Tensor) -> float:
        one = (ids > 0).long()
        return scale_loss(logits, labels, one, {"response": 1.0}, sequence_count=1).item()

    before = scale_loss(logits, labels, ids, WEIGHTS, sequence_count=1).item()
    assert scale_loss(*longer, WEIGHTS, sequence_count=1).item() == pytest.approx(before, rel=1e-6)
    assert abs(token_mean(*longer) - token_mean(logits, labels, ids)) > 0.01


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("pooled", [False, True])
def test_micro_batches_add_up_to_the_full_batch(size: int, pooled: bool) -> None:
    _, labels, ids = make_batch(2, batch=8)
    hidden, head = torch.randn(*labels.shape, 11), torch.randn(23, 11)
    counts = {name: int((ids == s).sum()) for s, name in enumerate(WEIGHTS, start=1)} if pooled else None

    def part(rows: slice) -> float:
        weight = token_weights(ids[rows], WEIGHTS, sequence_count=8, segment_counts=counts)
        return weighted_linear_cross_entropy(
            hidden[rows].flatten(0, 1), head, labels[rows].flatten(), weight.flatten()
        )[0].item()

    assert sum(part(slice(i, i + size)) for i in range(0, 8, size)) == pytest.approx(part(slice(None)), rel=1e-6)


def test_pooled_loss_is_the_mean_over_the_tokens_of_the_step() -> None:
    logits, labels, ids = make_batch(4)
    counts = {name: int((ids == s).sum()) for s, name in enumerate(WEIGHTS, start=1)}
    weight = token_weights(ids, WEIGHTS, sequence_count=5, segment_counts=counts)
    nll = -logits.log_softmax(-1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    wanted = 0.3 * nll[ids == 1].mean() + 0.7 * nll[ids == 2].mean()
    assert (weight * nll).sum().item() == pytest.approx(wanted.item(), rel=1e-6)


def test_a_missing_segment_moves_no_weight() -> None:
    logits, labels, ids = make_batch(5)
    only_answer = torch.where(ids == 1, 0, ids)
    with_both = scale_loss(logits, labels, only_answer, WEIGHTS, sequence_count=5)
    answer_alone = scale_loss(logits, labels, only_answer, {"think": 0.0, "answer": 0.7}, sequence_count=5)
    assert with_both.item() == answer_alone.item()


def test_nothing_to_train_stays_attached() -> None:
    logits, labels, ids = make_batch(6)
    got = scale_loss(logits, labels, torch.zeros_like(ids), WEIGHTS, sequence_count=5)
    got.backward()
    assert got.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("label", [0, 10**9, -1])
def test_labels_of_untrained_positions_are_not_read(label: int) -> None:
    logits, labels, ids = make_batch(7)
    wanted = scale_loss(logits, labels, ids, WEIGHTS, sequence_count=5)
    got = scale_loss(logits, labels.masked_fill(ids == 0, label), ids, WEIGHTS, sequence_count=5)
    got.backward()
    assert got.item() == wanted.item()
    assert not logits.grad[ids == 0].any()


def test_low_precision_logits_are_cast_to_float32() -> None:
    logits, labels, ids = make_batch(8)
    got = scale_loss(logits.bfloat16(), labels, ids, WEIGHTS, sequence_count=5)
    wanted = scale_loss(logits.bfloat16().float(), labels, ids, WEIGHTS, sequence_count=5)
    assert got.dtype == torch.float32
    assert got.item() == wanted.item()


# -------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": {"think": -0.1, "answer": 1.0}}, r"weight of segment 'think' .* got -0.1"),
        ({"weights": {"think": 0.1, "answer": math.nan}}, r"weight of segment 'answer' .* got nan"),
        ({"weights": {"think": 0.1, "answer": math.inf}}, r"weight of segment 'answer' .* got inf"),
        ({"weights": {"think": 1.0}}, r"segment_ids holds 2, but weights names 1 segments: \['think'\]"),
        ({"segment_ids": torch.tensor([[-1, 1, 2]])}, "segment_ids holds -1"),
        ({"sequence_count": 0}, "sequence_count must be at least 1, got 0"),
    ],
)
@pytest.mark.parametrize("function", ["token_weights", "scale_loss"])
def test_bad_arguments_are_refused(function: str, change: dict[str, Any], words: str) -> None:
    arguments = {"segment_ids": torch.tensor([[1, 1, 2]]), "weights": WEIGHTS, "sequence_count": 1} | change
    if function == "scale_loss":
        arguments |= {"logits": torch.zeros(1, 3, 4), "labels": torch.zeros(1, 3, dtype=torch.long)}
    with pytest.raises(ConfigError, match=words):
        getattr(loss, function)(**arguments)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"think": 2}, r"segment_counts has no entry for segment 'answer', only \['think'\]"),
        ({"think": 1, "answer": 1}, r"segment_counts\['think'\] is 1, but this batch alone has 2"),
    ],
)
def test_bad_segment_counts_are_refused(counts: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        token_weights(torch.tensor([[1, 1, 2]]), WEIGHTS, sequence_count=1, segment_counts=counts)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shapes", [[(1, 3, 4), (1, 2), (1, 3)], [(3, 4), (3,), (3,)], [(1, 3, 4), (1, 3), (2, 3)]])
def test_shapes_that_disagree_are_refused(shapes: list[tuple[int, ...]]) -> None:
    logits, labels, ids = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ConfigError, match=r"expected logits \[batch, seq, vocab\].* got \[") as caught:
        scale_loss(logits, labels.long(), ids.long(), WEIGHTS, sequence_count=1)
    assert all(str(list(shape)) in str(caught.value) for shape in shapes)


@pytest.mark.usefixtures("unchecked")
def test_segment_ids_need_two_axes() -> None:
    with pytest.raises(ConfigError, match=r"expected segment_ids \[batch, seq\], got \[3\]"):
        token_weights(torch.ones(3, dtype=torch.long), WEIGHTS, sequence_count=1)


@pytest.mark.parametrize("label", [-100, 4])
def test_labels_outside_the_vocabulary_are_refused(label: int) -> None:
    with pytest.raises(DataError, match=rf"label {label} inside a segment lies outside the vocabulary \[0, 4\)"):
        scale_loss(torch.zeros(1, 2, 4), torch.tensor([[0, label]]), torch.tensor([[1, 2]]), WEIGHTS, sequence_count=1)


@pytest.mark.parametrize("module", [loss, linear_cross_entropy])
def test_docstring_examples(module: Any) -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner()
    for name in ("token_weights", "scale_loss", "weighted_linear_cross_entropy"):
        function = getattr(module, name, None)
        if function is not None and function.__module__ == module.__name__:
            for example in finder.find(function, name, globs={"torch": torch, name: function}):
                runner.run(example)
    assert runner.tries > 0
    assert runner.failures == 0
