"""All rows of a training set, checked before the first step.

Each row is read as the trainer will read it (``rowcheck``): its shape, its pictures (by their headers), its segments,
its length. What it leaves out: reading files into data sets (``records``), and how many tokens a row has, which the
caller counts.
"""

import logging
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from balanced_thinking.core.segments import SegmentSpec, check_specs
from balanced_thinking.data.images import image_size
from balanced_thinking.data.rowcheck import Row, check_response, read_row
from balanced_thinking.errors import ConfigError, DataError, SegmentError

logger = logging.getLogger(__name__)

CountTokens = Callable[[Row, list[tuple[int, int]]], int]
# With so many faulty rows the data set as a whole is wrong; looking on would only keep the user waiting.
MAX_FAULTS = 100
_COLUMNS = ("id", "messages", "prompt", "completion", "image", "images", "text")
_BATCH = 256
_TOLD_AFTER = 2000  # rows, after which their pace is known


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a check of a data set found.

    Attributes:
        kept: Numbers of the rows to train on, from 0, rows beyond the limit included.
        skipped: Ids of the rows left out, by reason (a kind of ``SegmentError``, or ``overflow``).
        checked: Rows looked at.
        total: Rows there are.
        unchecked: Rows beyond the limit: ``total - checked``.
        lengths: ``min``, ``median``, ``p95`` and ``max`` tokens of the kept rows; empty where they were not counted.
        malformed: Rows kept although their segments are faulty, by kind.
        row_lengths: Tokens of each kept row that was checked, in the order of ``kept``; empty where not counted.
        pictured: Kept rows that were checked and have pictures.
    """

    kept: list[int]
    skipped: dict[str, list[str]]
    checked: int
    total: int
    unchecked: int
    lengths: dict[str, int] = field(default_factory=dict)
    malformed: dict[str, int] = field(default_factory=dict)
    row_lengths: list[int] = field(default_factory=list)
    pictured: int = 0

    def line(self) -> str:
        """Everything in one line."""
        parts = [f"checked {self.checked:,} of {self.total:,} rows, {len(self.kept) - self.unchecked:,} kept"]
        parts[0] += f" ({self.pictured:,} with pictures)"
        if self.skipped:
            by_kind = {kind: len(ids) for kind, ids in self.skipped.items()}
            parts.append(f"{sum(by_kind.values()):,} skipped ({_by_kind(by_kind)})")
        if self.malformed:
            parts.append(f"{sum(self.malformed.values()):,} kept though malformed ({_by_kind(self.malformed)})")
        if self.unchecked:
            parts.append(f"{self.unchecked:,} not checked (beyond the limit)")
        if self.lengths:
            names = {"min": "shortest", "median": "median", "p95": "95 % up to", "max": "longest"}
            parts.append("tokens: " + ", ".join(f"{names[key]} {value:,}" for key, value in self.lengths.items()))
        return "; ".join(parts)


def check_rows(
    dataset: Any,
    *,
    segments: Sequence[SegmentSpec],
    on_malformed: str = "error",
    on_overflow: str = "error",
    require_segments: bool = True,
    max_length: int | None = None,
    count_tokens: CountTokens | None = None,
    limit: int = 50_000,
    progress: bool = True,
) -> CheckReport:
    """Reads every row as the trainer will, up to ``limit``, and says which rows to train on.

    Args:
        dataset: A ``datasets.Dataset``, whose pictures are not decoded, or any sequence of rows.
        segments: What a response must consist of.
        on_malformed: ``error``, ``skip`` (leave such rows out) or ``keep`` (train the segments that a row has).
        on_overflow: ``error`` or ``skip`` for rows of more than ``max_length`` tokens, whose answer would be cut off.
        require_segments: False counts malformed rows and keeps them, as a loss without segments wants it.
        max_length: Longest row in tokens; None sets no bound.
        count_tokens: ``(row, picture sizes as (width, height)) -> tokens`` of the whole row; None leaves lengths out.
        limit: How many rows to look at; the others are kept unchecked.
        progress: Shows a bar on a terminal, and one line at the end, both on stderr.

    Returns:
        The rows to keep and the counts of everything else.

    Raises:
        DataError: faulty rows; the one line names the first and counts the others by kind. A row that cannot be read
            is always an error. Also raised when no row is left.
        ConfigError: an unknown option, or a data set without length.
    """
    _check_options(dataset, on_malformed, on_overflow, limit)
    total = len(dataset)
    if not total:
        raise DataError("the data set is empty", remedy="give at least one row")
    check = _Check(check_specs(segments), on_malformed, on_overflow, require_segments, max_length, count_tokens)
    count = min(total, limit)
    started = time.monotonic()
    for index, row in enumerate(_with_bar(stored_rows(dataset, count), count, shown=progress)):
        check.look_at(row, index)
        if len(check.faults) == MAX_FAULTS:
            break
    if check.faults:
        raise _one_error(check.faults, index + 1, total)
    report = check.report(count, total)
    _show(report, time.monotonic() - started, progress=progress)
    if not report.kept:
        reasons = _by_kind({kind: len(ids) for kind, ids in report.skipped.items()})
        raise DataError(f"no row is left: all {total} were skipped ({reasons})", remedy="mend the data set")
    return report


@dataclass(slots=True)
class _Check:
    """What to look for, and what was found so far."""

    segments: tuple[SegmentSpec, ...]
    on_malformed: str
    on_overflow: str
    require_segments: bool
    max_length: int | None
    count_tokens: CountTokens | None
    kept: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=dict)
    malformed: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[str, DataError]] = field(default_factory=list)
    pictured: int = 0

    def look_at(self, raw: Mapping[str, Any], index: int) -> None:
        try:
            row = read_row(raw, index=index)
            sizes = [image_size(image, record=row.id) for image in row.images]
            length = self._count(row, sizes)
        except DataError as error:
            self.faults.append((_fault_kind(error), error))
            return
        if self._malformed(row) or self._too_long(row, length):
            return
        self.kept.append(index)
        self.pictured += bool(row.images)
        if length is not None:
            self.lengths.append(length)

    def _count(self, row: Row, sizes: list[tuple[int, int]]) -> int | None:
        try:
            return None if self.count_tokens is None else self.count_tokens(row, sizes)
        except DataError as error:
            raise error.at(record=row.id) from error

    def _malformed(self, row: Row) -> bool:
        """Whether the row is out for its segments."""
        error = check_response(row, self.segments, on_malformed="error")
        if error is None:
            return False
        if self.on_malformed == "keep" or not self.require_segments:
            self.malformed[error.kind] += 1
            return False
        if self.on_malformed == "skip":
            self.skipped.setdefault(error.kind, []).append(row.id)
        else:
            self.faults.append((error.kind, error))
        return True

    def _too_long(self, row: Row, length: int | None) -> bool:
        """Whether the row is out for its length."""
        if length is None or self.max_length is None or length <= self.max_length:
            return False
        if self.on_overflow == "skip":
            self.skipped.setdefault("overflow", []).append(row.id)
        else:
            message = f"{length} tokens, but max_length is {self.max_length}: the end of the response would be cut off"
            self.faults.append(("overflow", DataError(message, record=row.id, remedy="raise max_length")))
        return True

    def report(self, checked: int, total: int) -> CheckReport:
        kept = [*self.kept, *range(checked, total)]
        lengths = _summary(self.lengths)
        counts = (dict(self.malformed), self.lengths, self.pictured)
        return CheckReport(kept, self.skipped, checked, total, total - checked, lengths, *counts)


def _check_options(dataset: Any, on_malformed: str, on_overflow: str, limit: int) -> None:
    for name, value, known in (
        ("on_malformed", on_malformed, ("error", "skip", "keep")),
        ("on_overflow", on_overflow, ("error", "skip")),
    ):
        if value not in known:
            raise ConfigError(f"{name} must be one of {', '.join(known)}, not {value!r}")
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ConfigError(f"limit must be a whole number of at least 1, not {limit!r}")
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise ConfigError("a streamed data set has no length and cannot be checked ahead; set scale_check=lazy")


def stored_rows(dataset: Any, count: int | None = None) -> Iterator[Mapping[str, Any]]:
    """The first ``count`` rows, or all. A ``datasets.Dataset`` is read as it is stored: its pictures stay encoded."""
    count = len(dataset) if count is None else count
    stored = hasattr(dataset, "with_format") and hasattr(dataset, "select_columns")
    if not stored or dataset.format["type"] == "custom":
        # A user's own transform makes the rows, so only the data set itself can say what they are.
        yield from (dataset[index] for index in range(count))
        return
    columns = [name for name in _COLUMNS if name in dataset.column_names]
    table = dataset.select_columns(columns or dataset.column_names).select(range(count)).with_format("arrow")
    for batch in table.iter(batch_size=_BATCH):
        yield from batch.to_pylist()


def _with_bar(rows: Iterable[Any], count: int, *, shown: bool) -> Iterator[Any]:
    if not shown or not sys.stderr.isatty():
        yield from _with_a_forecast(rows, count) if shown else rows
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(rows, description="checking rows", total=count, console=Console(stderr=True), transient=True)


def _with_a_forecast(rows: Iterable[Any], count: int) -> Iterator[Any]:
    """The rows; where there are many, one line says how long all of them will take."""
    started = time.monotonic()
    for number, row in enumerate(rows):
        if number == _TOLD_AFTER and count >= 3 * _TOLD_AFTER:
            past = time.monotonic() - started
            told = f"checking rows: {number:,} of {count:,} in {past:.0f} s"
            print(f"{told}, about {past * (count / number - 1):.0f} s to go", file=sys.stderr, flush=True)
        yield row


def _show(report: CheckReport, seconds: float, *, progress: bool) -> None:
    if progress:
        print(f"{report.line()} ({seconds:.1f} s)", file=sys.stderr, flush=True)
    elif report.skipped:
        logger.warning(report.line())


def _one_error(faults: list[tuple[str, DataError]], looked_at: int, total: int) -> DataError:
    """The first fault, with the number and kinds of all."""
    kind, error = faults[0]
    if kind == "overflow":
        advice = "set scale_on_overflow=skip to leave such rows out"
    elif isinstance(error, SegmentError):
        advice = "set scale_on_malformed=skip to leave such rows out"
    else:
        advice = ""
    more = ""
    if len(faults) > 1:
        kinds = _by_kind(Counter(kind for kind, _ in faults))
        more = f" (the first of {len(faults)} faulty rows: {kinds}"
        more += f"; {total - looked_at:,} rows not looked at)" if looked_at < total else ")"
    where: dict[str, Any] = {"file": error.file, "record": error.record, "field": error.field}
    where["remedy"] = ", or ".join(part for part in (error.remedy, advice) if part) or None
    if isinstance(error, SegmentError):
        return SegmentError(error.message + more, kind=error.kind, **where)
    return DataError(error.message + more, **where)


def _fault_kind(error: DataError) -> str:
    return "unreadable picture" if (error.field or "").startswith("image") else "unusable row"


def _by_kind(counts: Mapping[str, int]) -> str:
    """``12 no-answer, 3 overflow``, the most frequent first."""
    return ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items(), key=lambda pair: -pair[1]))


def _summary(lengths: list[int]) -> dict[str, int]:
    if not lengths:
        return {}
    ordered = sorted(lengths)
    p95 = ordered[min(len(ordered) - 1, -(-95 * len(ordered) // 100) - 1)]
    return {"min": ordered[0], "median": round(statistics.median(ordered)), "p95": p95, "max": ordered[-1]}
