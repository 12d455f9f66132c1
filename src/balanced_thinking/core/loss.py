"""The SCALe loss: every segment of a response counts by its weight, not by its length.

Two forms of one weighted sum: ``scale_loss``, the plain reference on full logits, and ``token_weights`` together with
``weighted_linear_cross_entropy`` (re-exported here), which training uses.

Source: Perek et al. 2026, arXiv:2603.18656, abstract; reductions, missing segments, pooled means are ours (METHOD.md).

Left out: where segments lie (``core.segments``), how weights move over training (``core.schedule``), and the shift of
the labels, which the collator does once.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from balanced_thinking.core.linear_cross_entropy import weighted_linear_cross_entropy
from balanced_thinking.errors import ConfigError, DataError

__all__ = ["scale_loss", "token_weights", "weighted_linear_cross_entropy"]


def token_weights(
    segment_ids: Int[Tensor, "batch seq"],
    weights: Mapping[str, float],
    *,
    sequence_count: int,
    segment_counts: Mapping[str, int] | None = None,
) -> Float[Tensor, "batch seq"]:
    """Weight of each token's nll, so that the loss is one weighted sum.

    For the token set S[b, s] of segment s in response b::

        token_weights[b, t] = weights[s] / |S[b, s]| / sequence_count     for t in S[b, s], 0 outside every segment
        token_weights[b, t] = weights[s] / segment_counts[s]              with segment_counts (pooled means)

    Args:
        segment_ids: Segment of the *target* token: 0 = not trained, 1 = first segment, 2 = second, ...
        weights: Non-negative weight of each segment for this step; key order is segment order.
        sequence_count: Responses in the whole optimizer step, over all micro-batches and ranks.
        segment_counts: Tokens of each segment in the whole optimizer step, over all micro-batches and ranks.

    Returns:
        float32, on the device of ``segment_ids``. A segment that a response lacks adds nothing; no weight moves.

    Raises:
        ConfigError: (a ``ValueError``) ``segment_ids`` is not two-dimensional or names a segment that ``weights``
            lacks, a weight is negative or not finite, ``sequence_count`` < 1, or ``segment_counts`` lacks a segment or
            has fewer tokens than this batch alone. The message gives the shape or value received.

    Example:
        >>> token_weights(torch.tensor([[0, 1, 1, 2]]), {"think": 0.5, "answer": 0.5}, sequence_count=1).tolist()
        [[0.0, 0.25, 0.25, 0.5]]

    Source: SCALe, Perek et al. 2026, arXiv:2603.18656; pooled means are ours (METHOD.md, "Means").
    """
    _check_arguments(segment_ids, weights, sequence_count)
    ids = segment_ids.long()
    present = ids.unsqueeze(-1) == torch.arange(len(weights) + 1, device=ids.device)  # [batch, seq, segment]
    counts = present.sum(dim=1)
    per_segment = torch.tensor([0.0, *weights.values()], dtype=torch.float32, device=ids.device)
    if segment_counts is None:
        share = per_segment / (counts.clamp(min=1) * sequence_count)
    else:
        totals = _pooled_totals(counts.sum(dim=0).tolist()[1:], list(weights), segment_counts)
        share = (per_segment / torch.tensor([1, *totals], device=ids.device)).expand(len(ids), -1)
    return share.gather(1, ids)


def scale_loss(
    logits: Float[Tensor, "batch seq vocab"],
    labels: Int[Tensor, "batch seq"],
    segment_ids: Int[Tensor, "batch seq"],
    weights: Mapping[str, float],
    *,
    sequence_count: int,
) -> Float[Tensor, ""]:
    """Cross-entropy in which each segment of a response counts by its weight, not by its length.

    Equals, for responses b, segments s and token sets S[b, s]::

        (1 / sequence_count) * sum_b sum_s  weights[s] * mean_{t in S[b, s]} nll[b, t]

    Plain SFT is a mean over all response tokens, where a 900-token rationale outvotes a 5-token answer 180 to 1.
    Here every segment is a mean, so ``weights`` alone sets the balance. This is the reference, on full logits;
    ``weighted_linear_cross_entropy`` gives the same from hidden states at a fraction of time and memory.

    Args:
        logits: Model output for every position, any float type; cast to float32 inside. Position t predicts
            ``labels[:, t]``: labels arrive already shifted (the collator does it).
        labels: Target token ids in [0, vocab). Values where ``segment_ids`` is 0 are not read.
        segment_ids: Segment of the *target* token: 0 = not trained, 1 = first segment (think), 2 = second (answer), ...
        weights: Non-negative weight of each segment for this step, from ``SegmentSchedule.weights``; key order is
            segment order. Used as given: if they do not sum to 1, the loss scale changes.
        sequence_count: Responses in the whole optimizer step, over all micro-batches and ranks (not just this batch);
            makes accumulation exact.

    Returns:
        Scalar float32, differentiable, in nats per segment-mean token.

    Raises:
        ConfigError: (a ``ValueError``) shapes disagree, a weight is negative or not finite, ``sequence_count`` < 1, or
            ``segment_ids`` names a segment that ``weights`` lacks. The message gives the shape or value received.
        DataError: (a ``ValueError``) a label inside a segment lies outside the vocabulary.

    Properties (each one a unit test):
        * Repeating a segment's rows k times with the same nll leaves the loss unchanged.
        * The sum over micro-batches with one ``sequence_count`` equals the full batch.
        * A missing segment adds 0; its weight is not moved to the other segment.
        * With nothing to train, the loss is 0 but still attached to ``logits``, so every rank can call ``backward``.

    Example:
        >>> loss = scale_loss(torch.zeros(1, 3, 4), torch.zeros(1, 3, dtype=torch.long),
        ...                   torch.tensor([[1, 1, 2]]), {"think": 0.5, "answer": 0.5}, sequence_count=1)
        >>> round(loss.item(), 4)  # uniform logits: log(4)
        1.3863

    Source: SCALe, Perek et al. 2026, arXiv:2603.18656; constants and reductions are ours (METHOD.md).
    """
    if logits.ndim != 3 or not logits.shape[:2] == labels.shape == segment_ids.shape:
        raise ConfigError(
            "expected logits [batch, seq, vocab], labels [batch, seq], segment_ids [batch, seq]; got "
            f"{list(logits.shape)}, {list(labels.shape)}, {list(segment_ids.shape)}"
        )
    weight = token_weights(segment_ids, weights, sequence_count=sequence_count)
    _check_labels(labels[segment_ids != 0], vocab=logits.shape[-1])
    target = labels.long().masked_fill(segment_ids == 0, -100)
    nll = F.cross_entropy(logits.float().flatten(0, 1), target.flatten(), ignore_index=-100, reduction="none")
    return (weight.flatten() * nll).sum()


def _pooled_totals(found: list[int], names: list[str], segment_counts: Mapping[str, int]) -> list[int]:
    """Tokens of each segment in the step, checked against those of this batch; 1 for a segment that never occurs."""
    totals = []
    for name, here in zip(names, found, strict=True):
        total = segment_counts.get(name)
        if total is None:
            raise ConfigError(f"segment_counts has no entry for segment {name!r}, only {list(segment_counts)}")
        if total < here:
            raise ConfigError(
                f"segment_counts[{name!r}] is {total}, but this batch alone has {here} tokens of it; "
                "count over all micro-batches and ranks of the optimizer step"
            )
        totals.append(max(int(total), 1))
    return totals


def _check_arguments(segment_ids: Tensor, weights: Mapping[str, float], sequence_count: int) -> None:
    if segment_ids.ndim != 2:
        raise ConfigError(f"expected segment_ids [batch, seq], got {list(segment_ids.shape)}")
    if sequence_count < 1:
        raise ConfigError(f"sequence_count must be at least 1, got {sequence_count}")
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise ConfigError(f"the weight of segment {name!r} must be finite and not negative, got {weight}")
    if segment_ids.numel() == 0:
        return
    low, high = (int(bound) for bound in segment_ids.aminmax())
    if low < 0 or high > len(weights):
        raise ConfigError(
            f"segment_ids holds {low if low < 0 else high}, but weights names {len(weights)} segments: {list(weights)}"
        )


def _check_labels(labels: Tensor, *, vocab: int) -> None:
    outside = labels[(labels < 0) | (labels >= vocab)]
    if outside.numel():
        raise DataError(
            f"label {int(outside[0])} inside a segment lies outside the vocabulary [0, {vocab})",
            remedy="give such tokens segment 0, or check that tokenizer and model belong together",
        )
