"""What the rows of ``results.jsonl`` say: accuracy per arm, and its difference to plain SFT with intervals.

    difference = mean over seeds and questions of correct(arm) - correct(sft), both on the same questions

The paper's three claims are put the same way, each with our verdict. What it leaves out: the intervals themselves
(``evaluation.metrics``) and how they are shown (``report``). Torch-free.
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
        kinds: Mean share of each kind of malformed response that occurs.
        truncated: Mean share that reached the cap.
        think_tokens: Mean tokens inside the think tags; None where there are none.
        answer_tokens: Mean tokens inside the answer tags.
        seconds: Mean training seconds; None for an arm that trains nothing.
        scores: Means of the benchmark's own scores, by name.
        difference: To the reference arm on the same seeds and questions; None for itself, or where that is missing.
    """

    accuracy: float
    standard_error: float
    n: int
    seeds: int
    malformed: float | None
    kinds: dict[str, float]
    truncated: float
    think_tokens: float | None
    answer_tokens: float | None
    seconds: float | None
    scores: dict[str, float]
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
        kinds=_kinds(rows),
        truncated=_mean(rows, "truncated") or 0.0,
        think_tokens=_mean(rows, "think_tokens"),
        answer_tokens=_mean(rows, "answer_tokens"),
        seconds=_seconds(rows),
        scores={name: sum(row["scores"][name] for row in rows) / count for name in rows[0].get("scores", {})},
        difference=paired_over_seeds(rows, reference),
    )


def paired_over_seeds(rows: Sequence[dict[str, Any]], reference: Sequence[dict[str, Any]]) -> SeedDifference | None:
    """Rows of one arm minus rows of another on one benchmark, over the seeds that both have; None if they share none.

    An arm without training (one row) is set against every seed of the reference.
    """
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


def _kinds(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    names = sorted({name for row in rows for name in row["malformed_kinds"] or {}})
    return {name: sum((row["malformed_kinds"] or {}).get(name, 0.0) for row in rows) / len(rows) for name in names}


def _mean(rows: Sequence[dict[str, Any]], key: str) -> float | None:
    values = [row[key] for row in rows if row[key] is not None]
    return sum(values) / len(values) if values else None


def _seconds(rows: Sequence[dict[str, Any]]) -> float | None:
    sums = [sum(stage["seconds"] for stage in row["stages"]) for row in rows if row["stages"]]
    return sum(sums) / len(sums) if sums else None


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence of the paper's abstract, and what these results say of it.

    Attributes:
        sentence: The claim.
        verdict: ``holds``, ``does not hold``, ``not resolved``; ``not told apart`` of arms that the paper calls level;
            with one seed "on one seed" is added, since the spread over seeds is unknown.
        figures: The difference with its interval, or the ratio of times.
    """

    sentence: str
    verdict: str
    figures: str


def claims(rows: Sequence[dict[str, Any]]) -> list[Claim]:
    """The claims that the arms in ``rows`` (one model, one benchmark) can speak to."""
    arms: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        arms.setdefault(row["arm"], []).append(row)
    found = []
    if (first := _compared(arms, "scale", "sft")) is not None:
        found.append(Claim("SCALe-SFT is more accurate than plain SFT", _sign(first), _points(first)))
    if (second := _compared(arms, "scale", "sft+grpo")) is not None:
        verdict = _sign(second).replace("not resolved", "not told apart")
        found.append(Claim("SCALe-SFT is at least level with SFT + GRPO", verdict, _points(second)))
        if (ratio := _time_ratio(rows)) is not None:
            sentence = "SCALe-SFT takes about a seventh of the training time of SFT + GRPO"
            found.append(Claim(sentence, "holds" if ratio >= 7 else "does not hold", f"1 / {ratio:.1f}"))
    others = [arm for arm in arms if arm != "scale+grpo"]
    if "scale+grpo" in arms and len(others) > 1:
        best = max(others, key=lambda arm: sum(row["accuracy"] for row in arms[arm]) / len(arms[arm]))
        third = _compared(arms, "scale+grpo", best)
        if third is not None:
            figures = f"{_points(third)} to {best}, the best of the others"
            found.append(Claim("SCALe-SFT followed by GRPO is the most accurate of all", _sign(third), figures))
    return found


def _compared(arms: dict[str, list[dict[str, Any]]], arm: str, reference: str) -> SeedDifference | None:
    return paired_over_seeds(arms[arm], arms[reference]) if arm in arms and reference in arms else None


def _sign(difference: SeedDifference) -> str:
    if not difference.resolved:
        return "not resolved"
    verdict = "holds" if difference.difference > 0 else "does not hold"
    return verdict if difference.seeds else f"{verdict} on one seed"


def _points(difference: SeedDifference) -> str:
    low, high = widest(difference)
    return f"{100 * difference.difference:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"


def seconds_compare(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether every training ran alone, all with the same threads, so that seconds can be set against each other."""
    stages = [stage for row in rows for stage in row["stages"]]
    return bool(stages) and all(s.get("alone") for s in stages) and len({s.get("threads") for s in stages}) == 1


def time_ratio(rows: Sequence[dict[str, Any]]) -> str | None:
    """One sentence: how much longer SFT + GRPO trained than SCALe-SFT, at which accuracies; None if not comparable."""
    ratio = _time_ratio(rows)
    if ratio is None:
        return None
    long, short = _shared_seeds(rows, "sft+grpo", "scale")
    times = [_seconds(long) or 0.0, _seconds(short) or 0.0]
    accuracy = [100 * sum(row["accuracy"] for row in found) / len(found) for found in (long, short)]
    steps = {stage["name"]: stage["steps"] for stage in long[0]["stages"]}
    return (
        f"time(sft+grpo) / time(scale) = {times[0]:.0f} s / {times[1]:.0f} s = {ratio:.2f}, at {accuracy[0]:.1f} % and "
        f"{accuracy[1]:.1f} %; {steps.get('grpo')} GRPO steps after {steps.get('sft')} SFT steps. The number of GRPO "
        "steps is a choice, and so is this ratio; the paper's is about 7."
    )


def _time_ratio(rows: Sequence[dict[str, Any]]) -> float | None:
    long, short = _shared_seeds(rows, "sft+grpo", "scale")
    times = _seconds(long), _seconds(short)
    if not times[0] or not times[1] or not seconds_compare([*long, *short]):
        return None
    return times[0] / times[1]


def _shared_seeds(rows: Sequence[dict[str, Any]], *arms: str) -> list[list[dict[str, Any]]]:
    """The rows of each arm, of the seeds that all of them have."""
    seeds = set.intersection(*({row["seed"] for row in rows if row["arm"] == arm} for arm in arms))
    return [[row for row in rows if row["arm"] == arm and row["seed"] in seeds] for arm in arms]
