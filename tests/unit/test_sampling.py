"""Rows of like length share a batch, in an order that depends on seed and epoch alone."""

import itertools
import random

import pytest

from balanced_thinking.training.sampling import LengthGroupedBatches

_DICE = random.Random(1)
LENGTHS = [_DICE.randint(20, 600) for _ in range(403)]


def batches(size=8, *, seed=3, epoch=0, lengths=LENGTHS):
    sampler = LengthGroupedBatches(lengths, size, seed=seed)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert len(sampler) == len(lengths)
    return [order[start : start + size] for start in range(0, len(order), size)]


def padding(groups) -> float:
    padded = sum(len(group) * max(LENGTHS[i] for i in group) for group in groups)
    return 1 - sum(LENGTHS[i] for group in groups for i in group) / padded


def test_every_row_comes_once_and_the_rest_last():
    groups = batches()
    assert sorted(i for group in groups for i in group) == list(range(len(LENGTHS)))
    assert [len(group) for group in groups] == [8] * 50 + [3]


def test_padding_is_small():
    shuffled = random.Random(0).sample(range(len(LENGTHS)), len(LENGTHS))
    assert padding([shuffled[start : start + 8] for start in range(0, 403, 8)]) > 0.4
    assert padding(batches()) < 0.1


@pytest.mark.parametrize(("count", "size"), [(100, 32), (64, 32), (200, 32), (40, 8)])
def test_few_rows_are_grouped_too(count, size):
    shuffled = random.Random(0).sample(range(count), count)
    apart = padding([shuffled[start : start + size] for start in range(0, count, size)])
    assert padding(batches(size, lengths=LENGTHS[:count])) < 0.75 * apart


def test_the_longest_row_is_in_the_first_batch():
    longest = max(range(len(LENGTHS)), key=LENGTHS.__getitem__)
    for epoch in range(5):
        assert longest in batches(epoch=epoch)[0]


def test_lengths_have_no_trend():
    """A schedule must not see long rows early; transformers' own order is 1 here, within each fifty batches."""
    means = [sum(LENGTHS[i] for i in group) / len(group) for group in batches()[1:-1]]
    falls = sum(a > b for a, b in itertools.pairwise(means)) / (len(means) - 1)
    assert 0.3 < falls < 0.7


def test_seed_and_epoch_decide_alone():
    import torch

    first = batches(epoch=1)
    torch.rand(7)
    assert batches(epoch=1) == first
    assert batches(epoch=2) != first
    assert batches(epoch=1, seed=4) != first


@pytest.mark.parametrize("count", [1, 7, 8, 9])
def test_few_rows(count):
    groups = batches(lengths=LENGTHS[:count])
    assert sorted(i for group in groups for i in group) == list(range(count))


def test_rows_have_other_company_in_each_epoch():
    def company(epoch):
        return {frozenset(group) for group in batches(lengths=LENGTHS[:160], epoch=epoch)}

    assert len(company(0) & company(1)) <= 2
