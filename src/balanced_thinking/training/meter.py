"""What is logged of the segments under ``scale/``, averaged between two log lines.

Per segment s, over the responses of all ranks since the last log line:

    weight_s     weight in the schedule at the last step
    nll_s        mean over responses of the segment's mean nll, in nats a token; absent where the weight was 0
    tokens_s     mean tokens of the segment in the responses that have it
    missing_s    responses that lack it
    answer_share share of the last segment (answer) in the sum of all token weights

What it leaves out: the loss itself. Sums stay on the device until a line is written, so that no step waits for them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


class SegmentMeter:
    """Sums of one mode (train or eval) between two log lines."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.clear()

    def clear(self) -> None:
        """Forget all sums."""
        self._sums: Tensor | None = None
        self._weights: Mapping[str, float] | None = None

    def add(
        self,
        nll: Float[Tensor, "batch seq"],
        segment_ids: Int[Tensor, "batch seq"],
        token_weights: Float[Tensor, "batch seq"],
        *,
        weights: Mapping[str, float] | None,
        scored: Int[Tensor, "batch seq"],
    ) -> None:
        """Take in one micro-batch: ``scored`` is 1 where ``nll`` is known, ``weights`` the schedule's (None: none)."""
        rows = segment_ids.size(0)
        columns = []
        for number in range(1, len(self.names) + 1):
            inside = segment_ids == number
            tokens = inside.sum(dim=1)
            known = (inside & scored.bool()).sum(dim=1)
            mean = (nll * inside).sum(dim=1) / known.clamp(min=1)
            has, seen = tokens > 0, known > 0
            columns.append(
                torch.stack(
                    [
                        mean[seen].sum(),
                        seen.sum(),
                        tokens.sum(),
                        has.sum(),
                        rows - has.sum(),
                        (token_weights * inside).sum(),
                    ]
                )
            )
        total = torch.stack([(nll * scored).sum(), scored.sum(), token_weights.sum()])
        sums = torch.cat([torch.stack(columns).flatten(), total]).to(torch.float32)
        self._sums = sums if self._sums is None else self._sums + sums
        if weights is not None:
            self._weights = dict(weights)

    def summary(self, reduce: Any) -> dict[str, float]:
        """The figures above, with ``reduce`` summing a tensor over ranks; empty when nothing was added."""
        if self._sums is None:
            return {}
        sums = reduce(self._sums).tolist()
        per_segment = [sums[6 * i : 6 * i + 6] for i in range(len(self.names))]
        nll, scored, weight = sums[6 * len(self.names) :]
        logs: dict[str, float] = {}
        for name, (mean, seen, tokens, has, missing, _) in zip(self.names, per_segment, strict=True):
            if self._weights is not None:
                logs[f"weight_{name}"] = self._weights[name]
            if seen:
                logs[f"nll_{name}"] = mean / seen
            if has:
                logs[f"tokens_{name}"] = tokens / has
            logs[f"missing_{name}"] = missing
        if weight:
            logs[f"{self.names[-1]}_share"] = per_segment[-1][5] / weight
        if scored:
            logs["nll_token"] = nll / scored
        return {f"scale/{name}": value for name, value in logs.items()}
