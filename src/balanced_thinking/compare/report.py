"""A comparison for people: a table in the terminal, ``report.md`` with plots, and examples with their pictures.

Everything is made from ``results.jsonl`` and the run folders, so it can be made again at any time. What it leaves out:
the figures themselves (``statistics``).
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from balanced_thinking.compare.plan import ARMS, Comparison, Stage, plan_stages
from balanced_thinking.compare.plots import write_plots
from balanced_thinking.compare.statistics import REFERENCE, Cell, cells
from balanced_thinking.runinfo import package_versions, read_jsonl, source_commit, write_text

_HEAD = (
    "arm", "accuracy %", f"difference to {REFERENCE} (95 %)", "malformed %", "truncated %", "think tokens",
    "training s",
)  # fmt: skip


def write_report(comparison: Comparison, rows: Sequence[dict[str, Any]], output: Path) -> Path:
    """Write ``report.md``, ``plots/`` and ``examples/`` under ``output``; returns the report."""
    output = Path(output)
    plots = write_plots(comparison, rows, output)
    parts = [f"# {comparison.name}", "", _method(comparison, rows)]
    for (model, benchmark), arms in cells(rows).items():
        parts += ["", f"## {benchmark}, {Path(model).name}", "", _markdown(_lines(arms))]
    parts += ["", _legend(rows), "", "## Curves", ""]
    parts += [f"![{title}]({path.relative_to(output).as_posix()})\n" for title, path in plots]
    examples = _examples(comparison, output)
    if examples:
        parts += ["## Examples", "", *examples]
    parts += ["## Configuration", "", "```json", json.dumps(_configuration(comparison), indent=2), "```", "", _CITE]
    path = output / "report.md"
    write_text(path, "\n".join(parts) + "\n")
    return path


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """The result tables in the terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for (model, benchmark), arms in cells(rows).items():
        table = Table(title=f"{benchmark}, {Path(model).name}", title_justify="left")
        for number, name in enumerate(_HEAD):
            table.add_column(name, justify="left" if number in (0, 2) else "right")
        for line in _lines(arms):
            table.add_row(*line)
        console.print(table)
    console.print(_legend(rows), highlight=False, markup=False)


def _lines(arms: dict[str, Cell]) -> list[tuple[str, ...]]:
    return [
        (
            arm,
            f"{100 * cell.accuracy:.1f} ± {100 * cell.standard_error:.1f}",
            cell.verdict,
            _percent(cell.malformed),
            _percent(cell.truncated),
            "n/a" if cell.think_tokens is None else f"{cell.think_tokens:.0f}",
            "" if cell.seconds is None else f"{cell.seconds:.0f}",
        )
        for arm, cell in arms.items()
    ]


def _legend(rows: Sequence[dict[str, Any]]) -> str:
    """What the columns mean, with the basis of the intervals as the statistics name it."""
    bases = {cell.difference.basis for arms in cells(rows).values() for cell in arms.values() if cell.difference}
    parts = [
        "Accuracy ± standard error (with several seeds: of the seed means); differences in points, with the widest "
        '95 % interval; "not resolved" where an interval holds zero.',
        *(f"Intervals: {basis}." for basis in sorted(bases)),
        "Malformed: not of the form <think>..</think><answer>..</answer>; n/a for arms whose format has no think.",
    ]
    return " ".join(parts)


def _method(comparison: Comparison, rows: Sequence[dict[str, Any]]) -> str:
    arms = "\n".join(f"* `{arm}`: {ARMS[arm].description}" for arm in comparison.arms)
    questions = max((row["n"] for row in rows), default=0)
    seeds = ", ".join(map(str, comparison.seeds))
    return (
        f"{arms}\n\nAll arms share base, data, order, seed, steps, batch, learning rate, generation cap and scorer. "
        f"Seeds: {seeds}. Up to {questions:,} questions per benchmark."
    )


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    head = ["| " + " | ".join(_HEAD) + " |", "|" + "---|" * len(_HEAD)]
    return "\n".join([*head, *("| " + " | ".join(line) + " |" for line in lines)])


def _examples(comparison: Comparison, output: Path, *, count: int = 4) -> list[str]:
    """Questions on which the arms disagree, with the picture and what each arm wrote."""
    stages = [stage for stage in plan_stages(comparison, output) if stage.kind == "evaluate" and not stage.blank_images]
    stages = [stage for stage in stages if stage.seed in (comparison.seeds[0], 0)]
    if not stages:
        return []
    model, benchmark = stages[0].model, stages[0].benchmark
    chosen = [stage for stage in stages if stage.model == model and stage.benchmark == benchmark]
    answers = {stage.arm: _predictions(stage) for stage in chosen}
    shared = [key for key in next(iter(answers.values()), {}) if all(key in found for found in answers.values())]
    split = [key for key in shared if len({bool(found[key]["correct"]) for found in answers.values()}) > 1]
    folder = output / "examples"
    shutil.rmtree(folder, ignore_errors=True)
    lines: list[str] = []
    for number, key in enumerate(_spread(split or shared, answers, count), 1):
        lines += _example(number, {arm: found[key] for arm, found in answers.items()}, folder)
    return lines


def _spread(keys: Sequence[str], answers: dict[str, dict[str, Any]], count: int) -> list[str]:
    """The first question of each kind, then the next ones, so that examples show several tasks."""
    first = next(iter(answers.values()), {})
    by_source: dict[str, list[str]] = {}
    for key in keys:
        by_source.setdefault(first[key].get("source", ""), []).append(key)
    chosen: list[str] = []
    while len(chosen) < count and any(by_source.values()):
        chosen += [found.pop(0) for found in by_source.values() if found]
    return chosen[:count]


def _example(number: int, rows: dict[str, dict[str, Any]], folder: Path) -> list[str]:
    first = next(iter(rows.values()))
    lines = [f"### {number}. {_escaped(first.get('question') or first['id'])}", ""]
    for index, picture in enumerate(first.get("images") or []):
        source = Path(str(picture))
        if source.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            target = folder / f"{number}-{index}{source.suffix}"
            shutil.copyfile(source, target)
            lines += [f"![picture]({folder.name}/{target.name})", ""]
    lines += [f"Right answer: {_escaped(str(first.get('reference')))}", ""]
    for arm, row in rows.items():
        mark = "right" if row["correct"] else "wrong"
        lines += [f"* **{arm}** ({mark}): {_escaped(row['response'])}"]
    return [*lines, ""]


def _predictions(stage: Stage) -> dict[str, dict[str, Any]]:
    rows = read_jsonl(stage.output / "predictions" / f"{Path(stage.benchmark).stem}.jsonl")
    return {row["id"]: row for row in rows}


def _configuration(comparison: Comparison) -> dict[str, Any]:
    settings = json.loads(json.dumps(vars(comparison), default=list))
    return {**settings, "packages": package_versions(), "commit": source_commit()}


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f}"


def _escaped(text: str) -> str:
    """Text from data, so that Markdown shows it as it is."""
    flat = " ".join(text.split())
    for sign in "\\`*_{}[]<>#|!":
        flat = flat.replace(sign, f"\\{sign}")
    return flat


_CITE = (
    "Method: SCALe; Perek, Wiesel, Dekel, Shabtay, Schwartz: Balanced Thinking: Improving Chain of Thought Training in "
    "Vision Language Models, arXiv:2603.18656, 2026. Pictures of the benchmarks icons and icons-unseen: Twemoji, "
    "Copyright 2019 Twitter, Inc and other contributors, CC-BY 4.0, resized on coloured ground."
)
