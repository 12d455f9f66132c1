"""What the rows of ``results.jsonl`` say: accuracy per arm, and its difference to plain SFT with intervals.

    difference = mean over seeds and questions of correct(arm) - correct(sft), both on the same questions

What it leaves out: the intervals themselves (``evaluation.metrics``) and how they are shown (``report``). Torch-free.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from balanced_thinking.evaluation.metrics import SeedDifference, decode_bits, seed_difference

REFERENCE = "sft"


@dataclass(frozen=True, slots=True)
class Cell:
    """One arm on one benchmark, over its seeds.

    Attributes:
        accuracy: Mean over seeds and questions, in [0, 1].
        standard_error: Of that mean: over questions with one seed, over seed means with several.
        n: Questions per seed.
        seeds: How many.
        malformed: Mean share of malformed responses; None where the arm's format has no think.
        truncated: Mean share that reached the cap.
        think_tokens: Mean tokens inside the think tags; None where there are none.
        answer_tokens: Mean tokens inside the answer tags.
        seconds: Mean training seconds; None for an arm that trains nothing.
        difference: To the reference arm on the same seeds and questions; None for itself, or where that is missing.
    """

    accuracy: float
    standard_error: float
    n: int
    seeds: int
    malformed: float | None
    truncated: float
    think_tokens: float | None
    answer_tokens: float | None
    seconds: float | None
    difference: SeedDifference | None

    @property
    def verdict(self) -> str:
        """The difference in points with its widest interval, or that it is not resolved."""
        if self.difference is None:
            return ""
        low, high = widest(self.difference)
        text = f"{100 * self.difference.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
        return text if self.difference.resolved else f"{text} not resolved"


def cells(rows: Sequence[dict[str, Any]], *, reference: str = REFERENCE) -> dict[tuple[str, str], dict[str, Cell]]:
    """(model, benchmark) -> arm -> ``Cell``, in the order of the rows."""
    grouped: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        arms = grouped.setdefault((row["model"], row["benchmark"]), {})
        arms.setdefault(row["arm"], []).append(row)
    return {
        place: {arm: _cell(found, arms.get(reference, []) if arm != reference else []) for arm, found in arms.items()}
        for place, arms in grouped.items()
    }


def widest(difference: SeedDifference) -> tuple[float, float]:
    """The interval that covers both: over questions and, with several seeds, over seed means."""
    intervals = [difference.questions] + ([difference.seeds] if difference.seeds else [])
    return min(low for low, _ in intervals), max(high for _, high in intervals)


def _cell(rows: Sequence[dict[str, Any]], reference: Sequence[dict[str, Any]]) -> Cell:
    means = [row["accuracy"] for row in rows]
    count = len(means)
    accuracy = sum(means) / count
    if count > 1:
        error = (sum((mean - accuracy) ** 2 for mean in means) / (count - 1) / count) ** 0.5
    else:
        error = rows[0]["accuracy_se"]
    return Cell(
        accuracy=accuracy,
        standard_error=error,
        n=rows[0]["n"],
        seeds=count,
        malformed=_mean(rows, "malformed"),
        truncated=_mean(rows, "truncated") or 0.0,
        think_tokens=_mean(rows, "think_tokens"),
        answer_tokens=_mean(rows, "answer_tokens"),
        seconds=_seconds(rows),
        difference=_difference(rows, reference),
    )


def _difference(rows: Sequence[dict[str, Any]], reference: Sequence[dict[str, Any]]) -> SeedDifference | None:
    """Over the seeds that both have; an arm without training (one row) is set against every seed of the reference."""
    by_seed = {row["seed"]: row for row in reference}
    if len(rows) == 1 and not rows[0]["stages"]:
        pairs = [(rows[0], other) for other in reference]
    else:
        pairs = [(row, by_seed[row["seed"]]) for row in rows if row["seed"] in by_seed]
    pairs = [(a, b) for a, b in pairs if a["n"] == b["n"]]
    if not pairs:
        return None
    bits = [(decode_bits(a["correct"], a["n"]), decode_bits(b["correct"], b["n"])) for a, b in pairs]
    return seed_difference([a for a, _ in bits], [b for _, b in bits])


def _mean(rows: Sequence[dict[str, Any]], key: str) -> float | None:
    values = [row[key] for row in rows if row[key] is not None]
    return sum(values) / len(values) if values else None


def _seconds(rows: Sequence[dict[str, Any]]) -> float | None:
    sums = [sum(stage["seconds"] for stage in row["stages"]) for row in rows if row["stages"]]
    return sum(sums) / len(sums) if sums else None
