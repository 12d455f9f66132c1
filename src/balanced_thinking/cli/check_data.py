"""``balanced check-data``: what is in a data set, what is wrong with it, and a clean copy without that."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from balanced_thinking.cli.clean_copy import CleanCopy
    from balanced_thinking.data.audit import Audit
    from balanced_thinking.data.formats.options import Options


def run(argv: Sequence[str]) -> int:
    """Print what was found; 0 if every record is good or a clean copy was written, else 2."""
    options = _parse(argv)
    if options.json:
        _check_place(Path(options.json))

    from balanced_thinking.data.audit import audit
    from balanced_thinking.errors import DataError

    reading, count = _reading(options), _counter(options.tokenizer)
    with _clean_copy(options.fix, options.hold_out) as copy:
        with _bar(options.dataset) as advance:
            found = audit(
                Path(options.dataset),
                format=options.dataset_format,
                options=reading,
                count=count,
                max_length=options.max_length,
                other=Path(options.test) if options.test else None,
                keep=copy.keep if copy else None,
                left_out=copy.leave_out if copy else None,
                advance=advance,
            )
        if found.overlooked is not None:  # said in here, so that no copy without pictures is left
            _tell(found, options, None)
            raise found.overlooked
    _tell(found, options, copy)
    bad = sum(found.faults.values())
    if bad and not options.fix:
        remedy = "see what is said of each kind above, or write a clean copy without them with --fix"
        raise DataError(f"{bad:,} of {found.records:,} records cannot be used", file=options.dataset, remedy=remedy)
    if not found.good:
        raise DataError("no record can be used", file=options.dataset, remedy="see what is said above")
    return 0


def _reading(options: Any) -> "Options":
    from balanced_thinking.cli.parsing import columns_of
    from balanced_thinking.core.segments import parse_segments
    from balanced_thinking.data.formats.options import Options

    root = Path(options.image_root) if options.image_root else None
    columns, segments = columns_of(options.columns), parse_segments(options.scale_segments)
    return Options(root, options.answer_from, options.on_missing, columns, options.allow_outside, segments)


def _tell(found: "Audit", options: Any, copy: "CleanCopy | None") -> None:
    from balanced_thinking.runinfo import write_json

    summary = found.summary()
    _show(summary, options, copy)
    if options.json:
        write_json(Path(options.json), summary)


def _parse(argv: Sequence[str]) -> Any:
    from balanced_thinking.cli.parsing import OneLineParser

    parser = OneLineParser(prog="balanced check-data", description=__doc__)
    parser.add_argument("dataset", help="a file or folder in any known format, or a hub id")
    parser.add_argument("--dataset_format", help="data format; unset: found out, and said")
    parser.add_argument("--image_root", help="folder of relative picture paths; unset: the data file's")
    parser.add_argument("--answer_from", help="tag, boxed, after_think or field")
    parser.add_argument(
        "--on_missing", default="error", help="records without reasoning: error, train (the answer alone) or skip"
    )
    parser.add_argument("--columns", help='our names to the file\'s as JSON: {"completion": "response"}')
    parser.add_argument("--scale_segments", help="what responses consist of, as for sft: llava-cot, or JSON")
    parser.add_argument("--allow_outside", action="store_true", help="allow pictures outside the data's folder")
    parser.add_argument("--tokenizer", help="preset or model folder whose tokens are counted; unset: characters")
    parser.add_argument("--max_length", type=_length, help="say how many records are longer, without pictures")
    parser.add_argument("--test", help="another data file whose pictures must not be among these")
    parser.add_argument("--fix", help="write the good records to this .jsonl, and a list of the others beside it")
    parser.add_argument(
        "--hold_out", type=float, help="with --fix: this share of the pictures goes to a test file beside the copy"
    )
    parser.add_argument("--json", help="also write all figures to this file")
    return parser.parse_all(argv)


def _length(text: str) -> int:
    from argparse import ArgumentTypeError

    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"must be a whole number of at least 1, not {text}")
    return int(text)


def _counter(tokenizer: str | None) -> Callable[[str], int] | None:
    if tokenizer is None:
        return None
    from balanced_thinking.demo.presets import PRESETS, located, resolve
    from balanced_thinking.errors import ConfigError

    folder: Path | None = Path(tokenizer)
    if tokenizer in PRESETS and not Path(tokenizer).is_dir():
        folder = located(tokenizer)
    else:
        resolve(tokenizer)  # a name that is almost a preset's
    if folder is None:
        # Half an hour of training is no way to count tokens.
        remedy = f"`balanced presets build {tokenizer}` makes it, or take tiny-qwen2_5_vl"
        raise ConfigError(f"the preset {tokenizer} is not built yet; {remedy}")
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ConfigError(f"no tokenizer.json in {file.parent}; give a preset or a model folder that has one")
    from tokenizers import Tokenizer

    try:
        counter = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises no narrower kind
        raise ConfigError(f"{file} is no tokenizer ({error}); give a preset or a model folder") from error
    return lambda text: len(counter.encode(text, add_special_tokens=False).ids)


@contextmanager
def _clean_copy(place: str | None, hold_out: float | None) -> Iterator["CleanCopy | None"]:
    """The clean copy that ``--fix`` asks for; it gets its name only when it is whole."""
    from balanced_thinking.errors import ConfigError

    if hold_out is not None and (place is None or not 0 < hold_out < 1):
        raise ConfigError("--hold_out must lie between 0 and 1, and needs --fix")
    if place is None:
        yield None
        return
    from balanced_thinking.cli.clean_copy import CleanCopy

    target = Path(place)
    if target.suffix != ".jsonl":
        raise ConfigError(f"--fix must name a .jsonl file, not {place}")
    _check_place(target)
    with CleanCopy(target, hold_out) as copy:
        yield copy
        copy.finish()


def _check_place(file: Path) -> None:
    """Refuse, before anything is read, a file that could not be written in the end."""
    from balanced_thinking.errors import ConfigError
    from balanced_thinking.runinfo import check_writable

    if file.is_dir():
        raise ConfigError(f"{file} is a folder; name a file in it")
    check_writable(file.parent)


@contextmanager
def _bar(name: str) -> Iterator[Callable[[], None]]:
    import sys

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("checking {task.description}"), BarColumn(), TextColumn("{task.completed:,} records"))
    console = Console(stderr=True)
    with Progress(
        *columns, TimeElapsedColumn(), console=console, transient=True, disable=not sys.stderr.isatty()
    ) as bar:
        task = bar.add_task(name, total=None)
        yield lambda: bar.advance(task)


def _show(found: dict[str, Any], options: Any, copy: "CleanCopy | None") -> None:
    bad, skipped = sum(found["faults"].values()), sum(found["skipped"].values())
    left_out = f", {skipped:,} are left out" if skipped else ""
    print(f"{found['file']}: format {found['format']}, since {found['reason']}")
    print(f"{found['records']:,} records, {found['good']:,} can be used, {bad:,} cannot{left_out}")
    print(f"{found['with_pictures']:,} of {found['good']:,} records have pictures")
    for kind, count in sorted(found["faults"].items(), key=lambda pair: -pair[1]):
        print(f"\n  {count:,} {kind}")
        print("\n".join(f"    {line}" for line in found["first"][kind]))
        if count > len(found["first"][kind]):
            print(f"    ... and {count - len(found['first'][kind]):,} more")
    for kind, count in sorted(found["skipped"].items(), key=lambda pair: -pair[1]):
        print(f"\n  {count:,} {kind}, left out as on_missing asks")
    for note, count in found["notes"].items():
        if count:
            print(f"\n  in {count:,} records {note}")
    if copy is not None:
        print(f"\n{copy.line()}")
    if found["good"]:
        _show_good(found, options)


def _show_good(found: dict[str, Any], options: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"lengths in {found['unit']} of text, pictures not counted", title_justify="left")
    for column in ("", "5 %", "half", "95 %", "99 %", "longest", "sum"):
        table.add_column(column, justify="right" if column else "left")
    for part, values in found["lengths"].items():
        total = sum(found["totals"].values()) if part == "all" else found["totals"][part]
        table.add_row(part, *(f"{value:,}" for value in values.values()), f"{total:,}")
    print()
    Console(width=100, color_system=None).print(table)
    share = found["answer_share"]
    if share:
        ratio = (1 - share) / share
        told = f": a token mean gives the trace {ratio:.0f} times its weight" if ratio >= 1.5 else ""
        print(f"the answer is {100 * share:.1f} % of what plain SFT trains{told}")
    lines = (
        (found["without_think"], "records have no reasoning"),
        (
            found["too_long"],
            f"records have more than {options.max_length} {found['unit']} of text; sft refuses such rows",
        ),
        (found["repeated"], "records repeat an earlier one"),
        (found["contradicting"], "records repeat a question and its pictures with another answer"),
    )
    print("\n".join(f"{count:,} {what}" for count, what in lines if count))
    if options.test:
        print(_shared(found, options.test))


def _shared(found: dict[str, Any], test: str) -> str:
    """How many pictures a test set shows too; no number where none of its records could be compared."""
    records, unread = found["records_in_other"], found["unreadable_in_other"]
    told = f"{found['shared']:,} of {found['pictures']:,} pictures are in {test} too"
    if not unread:
        return told
    if unread == records:
        return f"no picture was compared: none of the {records:,} records of {test} can be ({found['first_in_other']})"
    return f"at least {told}; {unread:,} of its {records:,} records cannot be compared ({found['first_in_other']})"
