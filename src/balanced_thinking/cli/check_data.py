"""``balanced check-data``: what is in a data set, what is wrong with it, and a clean copy without that."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from balanced_thinking.data.example import Example


def run(argv: Sequence[str]) -> int:
    """Print what was found; 0 if every record is good or a clean copy was written, else 2."""
    options = _parse(argv)
    if options.json:
        _make_folder(Path(options.json).parent)

    from balanced_thinking.cli.parsing import columns_of
    from balanced_thinking.core.segments import parse_segments
    from balanced_thinking.data.audit import audit
    from balanced_thinking.data.formats.options import Options
    from balanced_thinking.errors import DataError
    from balanced_thinking.runinfo import write_json

    root = Path(options.image_root) if options.image_root else None
    columns = columns_of(options.columns)
    segments = parse_segments(options.scale_segments)
    reading = Options(root, options.answer_from, options.on_missing, columns, options.allow_outside, segments)
    with _clean_copy(options.fix, options.hold_out) as (keep, left_out), _bar(options.dataset) as advance:
        found = audit(
            Path(options.dataset),
            format=options.dataset_format,
            options=reading,
            count=_counter(options.tokenizer),
            max_length=options.max_length,
            other=Path(options.test) if options.test else None,
            keep=keep,
            left_out=left_out,
            advance=advance,
        )
    summary = found.summary()
    _show(summary, options)
    if options.json:
        write_json(Path(options.json), summary)
    bad = sum(found.faults.values())
    if bad and not options.fix:
        remedy = "mend them, set on_missing or answer_from, or write a clean copy with --fix"
        raise DataError(f"{bad:,} of {found.records:,} records cannot be used", file=options.dataset, remedy=remedy)
    if not found.good:
        raise DataError("no record can be used", file=options.dataset, remedy="see the faults above")
    return 0


def _parse(argv: Sequence[str]) -> Any:
    from balanced_thinking.cli.parsing import OneLineParser

    parser = OneLineParser(prog="balanced check-data", description=__doc__)
    parser.add_argument("dataset", help="a file or folder in any known format, or a hub id")
    parser.add_argument("--dataset_format", help="data format; unset: found out, and said")
    parser.add_argument("--image_root", help="folder of relative picture paths; unset: the data file's")
    parser.add_argument("--answer_from", help="tag, boxed, after_think or field")
    parser.add_argument("--on_missing", default="error", help="records without reasoning: train or error")
    parser.add_argument("--columns", help='our names to the file\'s as JSON: {"completion": "response"}')
    parser.add_argument("--scale_segments", help="what responses consist of, as for sft: llava-cot, or JSON")
    parser.add_argument("--allow_outside", action="store_true", help="allow pictures outside the data's folder")
    parser.add_argument("--tokenizer", help="preset or model folder whose tokens are counted; unset: characters")
    parser.add_argument("--max_length", type=int, help="say how many records this length of text would cut")
    parser.add_argument("--test", help="another data file whose pictures must not be among these")
    parser.add_argument("--fix", help="write the good records to this .jsonl, and a list of the others beside it")
    parser.add_argument(
        "--hold_out", type=float, help="with --fix: this share of the pictures goes to a test file beside the copy"
    )
    parser.add_argument("--json", help="also write all figures to this file")
    return parser.parse_all(argv)


def _counter(tokenizer: str | None) -> Callable[[str], int] | None:
    if tokenizer is None:
        return None
    from balanced_thinking.demo.presets import resolve
    from balanced_thinking.errors import ConfigError

    file = Path(resolve(tokenizer)) / "tokenizer.json"
    if not file.is_file():
        raise ConfigError(f"no tokenizer.json in {file.parent}; give a preset or a model folder that has one")
    from tokenizers import Tokenizer

    try:
        counter = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises no narrower kind
        raise ConfigError(f"{file} is no tokenizer ({error}); give a preset or a model folder") from error
    return lambda text: len(counter.encode(text, add_special_tokens=False).ids)


@contextmanager
def _clean_copy(place: str | None, hold_out: float | None) -> Iterator[tuple[Callable[["Example"], None] | None, Any]]:
    """Writers of good examples and of faults; the copy gets its name only when it is whole."""
    from balanced_thinking.data.records import is_held_out, to_trl_row
    from balanced_thinking.errors import ConfigError

    if hold_out is not None and (place is None or not 0 < hold_out < 1):
        raise ConfigError("--hold_out must lie between 0 and 1, and needs --fix")
    if place is None:
        yield None, None
        return

    target = Path(place)
    if target.suffix != ".jsonl":
        raise ConfigError(f"--fix must name a .jsonl file, not {place}")
    names = ["", ".left_out", *([".test"] if hold_out else [])]
    files = [target.with_name(f"{target.stem}{name}.jsonl") for name in names]
    there = next((file for file in files if file.exists()), None)
    if there is not None:
        raise ConfigError(f"{there} is there already; choose another name for --fix")
    _make_folder(target.parent)
    pictures = target.with_name(f"{target.stem}.pictures")
    with ExitStack() as stack:
        parts = [file.with_name(f"{file.name}.part") for file in files]
        opened = [stack.enter_context(part.open("w", encoding="utf-8")) for part in parts]

        def write(number: int, row: dict[str, Any]) -> None:
            opened[number].write(json.dumps(row, ensure_ascii=False) + "\n")

        def keep(example: "Example") -> None:
            row = to_trl_row(example)
            row["images"] = [_as_file(image, pictures) for image in row["images"]]
            held_out = is_held_out(example, hold_out) if hold_out else False
            if held_out is None:
                line = f"record {example.id}: it shows pictures of both parts"
                write(1, {"record": example.id, "kind": "pictures of both parts", "fault": line})
            else:
                write(2 if held_out else 0, row)

        stack.callback(_remove, parts)
        yield keep, lambda record, kind, line: write(1, {"record": record, "kind": kind, "fault": line})
        for part, file, handle in zip(parts, files, opened, strict=True):
            handle.close()
            part.replace(file)


def _remove(files: list[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    from balanced_thinking.errors import ConfigError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write to {folder} ({error.strerror}); choose another place") from error


def _as_file(image: Any, folder: Path) -> str:
    """The path of a picture; encoded bytes and pixels become a file named after what they show."""
    from io import BytesIO

    from balanced_thinking.data.audit import picture_key

    if isinstance(image, str):
        return image
    folder.mkdir(exist_ok=True)
    if isinstance(image, bytes):
        from PIL import Image

        with Image.open(BytesIO(image)) as opened:
            suffix = (opened.format or "png").lower()
        file = folder / f"{picture_key(image).hex()}.{suffix}"
        file.write_bytes(image)
    else:
        file = folder / f"{picture_key(image).hex()}.png"
        image.save(file)
    return str(file.absolute())


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


def _show(found: dict[str, Any], options: Any) -> None:
    bad = sum(found["faults"].values())
    print(f"{found['file']}: format {found['format']}, since {found['reason']}")
    print(f"{found['records']:,} records, {found['good']:,} can be used, {bad:,} cannot")
    for kind, count in sorted(found["faults"].items(), key=lambda pair: -pair[1]):
        print(f"\n  {count:,} {kind}")
        print("\n".join(f"    {line}" for line in found["first"][kind]))
        if count > len(found["first"][kind]):
            print(f"    ... and {count - len(found['first'][kind]):,} more")
    for note, count in found["notes"].items():
        if count:
            print(f"\n  in {count:,} records {note}")
    if options.fix:
        stem = Path(options.fix).with_suffix("")
        held_out = f"; held out by picture: {stem}.test.jsonl" if options.hold_out else ""
        print(f"\nclean copy: {options.fix}{held_out}; left out: {stem}.left_out.jsonl")
        print(f"its pictures stay where they are; read it from elsewhere with image_root {_home(options)}")
    if found["good"]:
        _show_good(found, options)


def _home(options: Any) -> str:
    return str(options.image_root or Path(options.dataset).absolute().parent)


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
        print(
            f"the answer is {100 * share:.1f} % of what plain SFT trains: a token mean gives the trace "
            f"{(1 - share) / share:.0f} times its weight"
        )
    lines = (
        (found["without_think"], "records have no reasoning"),
        (found["too_long"], f"records have more than {options.max_length} {found['unit']} of text and would be cut"),
        (found["repeated"], "records repeat an earlier one"),
        (found["contradicting"], "records repeat a question and its pictures with another answer"),
    )
    print("\n".join(f"{count:,} {what}" for count, what in lines if count))
    if options.test:
        print(f"{found['shared']:,} of {found['pictures']:,} pictures are in {options.test} too")
        if found["unreadable_in_other"]:
            print(f"{found['unreadable_in_other']:,} records of {options.test} could not be compared")
