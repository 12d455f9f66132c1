"""The order of training rows with ``train_sampling_strategy="group_by_length"``: equally long rows share a batch.

transformers' order needs a column of lengths, goes from long to short within fifty batches, which a schedule would see
as a trend, and starts from whatever the global generator holds, so a resumed epoch would be another one. Here the
lengths are those that the check of the rows counted, batches come in random order, and the order depends on seed and
epoch alone. What it leaves out: every other order, which is transformers'.
"""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

# Batches sorted together: at most, so that rows of an epoch mix; at least, since one alone would not be sorted.
_MOST, _LEAST = 50, 4


class LengthGroupedBatches(Sampler[int]):
    """Row numbers of an epoch, each ``batch_size`` in a row of about the same length.

    The batch with the longest row comes first, so that memory runs out at once or not at all; a last batch that is not
    full stays last. Sorted are a quarter of all batches at a time, 4 to 50, chosen anew each epoch, so
    that rows have other company in each.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows of one step on one device, over all its micro-batches.
        seed: Of the run; the epoch is added.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, *, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass; accelerate calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        full = len(self.lengths) // self.batch_size
        together = max(1, min(max(full // 4, min(full, _LEAST)), _MOST))
        order = get_length_grouped_indices(self.lengths, self.batch_size, together, generator=generator)
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        if full > 1:
            shuffled = 1 + torch.randperm(full - 1, generator=generator)
            batches[1:full] = [batches[number] for number in shuffled.tolist()]
        return (number for batch in batches for number in batch)
