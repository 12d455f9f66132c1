"""A comparison for people: a table in the terminal, ``report.md`` and a self-contained ``report.html``.

Everything is made from ``results.jsonl`` and the run folders, so ``balanced report`` can make it again at any time.
The content stands here once, as blocks; ``render`` writes them as Markdown and as HTML. What it leaves out: the figures
themselves (``statistics``) and plots (``plots``). Torch-free.
"""

import dataclasses
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from balanced_thinking.compare.comparison import ARMS, Comparison
from balanced_thinking.compare.plan import BLANK, Stage, plan_stages
from balanced_thinking.compare.plots import write_plots
from balanced_thinking.compare.render import Answer, Block, Code, Example, Heading, Image, Table, Text, html, markdown
from balanced_thinking.compare.statistics import (
    REFERENCE,
    Cell,
    cells,
    claims,
    clock_of,
    seconds_compare,
    time_ratio,
)
from balanced_thinking.evaluation.benchmarks import BENCHMARKS
from balanced_thinking.runinfo import package_versions, read_jsonl, source_commit, write_json, write_text

EXAMPLES_FILE = "examples.json"
_OWN_PICTURE = re.compile(r"\d+-\d+\.\w+")
_CITE = (
    "Method: SCALe; Perek, Wiesel, Dekel, Shabtay, Schwartz: Balanced Thinking: Improving Chain of Thought Training in "
    "Vision Language Models, arXiv:2603.18656, 2026. Pictures of the benchmarks icons and icons-unseen: Twemoji, "
    "Copyright 2019 Twitter, Inc and other contributors, CC-BY 4.0, resized on coloured ground."
)


def write_report(comparison: Comparison, rows: Sequence[dict[str, Any]], output: Path) -> Path:
    """Write ``report.html``, ``report.md``, ``plots/`` and ``examples/`` under ``output``; returns the HTML page."""
    output = Path(output)
    chosen = _examples(comparison, output)
    # An arm that is added where the predictions of the others are gone must not take their examples away.
    if chosen and _arms_of(_kept_examples(output / "examples")) <= _arms_of(chosen):
        _keep_examples(chosen, output / "examples")
    blocks = _blocks(comparison, rows, output)
    write_text(output / "report.md", markdown(blocks, output))
    write_text(output / "report.html", html(comparison.name, blocks))
    return output / "report.html"


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """The result tables in the terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    for (model, benchmark), arms in cells(rows).items():
        table = RichTable(title=f"{benchmark}, {Path(model).name}", title_justify="left", box=box.SIMPLE_HEAD)
        for number, name in enumerate(_head(rows)):
            table.add_column(name, justify="left" if number in (0, 3) else "right", no_wrap=True)
        for line in _lines(arms):
            table.add_row(*line)
        console.print(table)
    console.print(_legend(rows), highlight=False, markup=False)


def _blocks(comparison: Comparison, rows: Sequence[dict[str, Any]], output: Path) -> list[Block]:
    blocks: list[Block] = [Heading(comparison.name, 1), *_method(comparison, rows)]
    blocks += [Heading("Accuracy", 2), _overview(comparison, rows), Text(_legend(rows))]
    blocks += _verdicts(rows)
    plots = {plot.path.stem: Image(plot.title, plot.path) for plot in write_plots(comparison, rows, output)}
    blocks += [plots.pop(name) for name in ("accuracy", "trade-off") if name in plots]
    for (model, benchmark), arms in cells(rows).items():
        blocks += [Heading(f"{benchmark}, {Path(model).name}", 2), Table(_head(rows), _lines(arms))]
        if (known := BENCHMARKS.get(benchmark)) is not None and known.question_only is not None:
            blocks.append(Text(f"The question alone, without the picture, gives {100 * known.question_only:.1f} %."))
        blocks += [table for table in (_own_scores(arms), _kinds(arms)) if table]
    blocks += [Heading("Training", 2), *_stages(rows)]
    if any(row["stages"] for row in rows) and not seconds_compare(rows):
        instead = "CPU seconds are compared" if clock_of(rows) else "times are not compared"
        blocks.append(Text(f"Trainings did not all run alone with the same threads, so {instead}."))
    blocks += plots.values()
    if examples := _kept_examples(output / "examples"):
        blocks += [Heading("Examples", 2), *examples]
    configuration = json.dumps(_configuration(comparison, output), indent=2)
    return [*blocks, Heading("Configuration", 2), Code(configuration), Heading("How to cite", 2), Text(_CITE)]


def _method(comparison: Comparison, rows: Sequence[dict[str, Any]]) -> list[Block]:
    questions = max((row["n"] for row in rows), default=0)
    seeds = ", ".join(map(str, comparison.seeds))
    arms = [(arm, ARMS[arm].description) for arm in comparison.arms]
    prompt = comparison.recipe.get("system_prompt")
    return [
        Table(("arm", "what it is"), arms),
        Text(
            "All arms start from the same base; those with SFT share its data, order, seed, steps, batch and learning "
            "rate, those with GRPO its settings too. Generation cap and scorer are the same for all. "
            f"Seeds: {seeds}. Up to {questions:,} questions per benchmark."
            + (f" System prompt: {prompt}" if prompt else "")
        ),
    ]


def _overview(comparison: Comparison, rows: Sequence[dict[str, Any]]) -> Table:
    """The paper's layout: a line per model and benchmark, a column per arm; * where the difference is resolved."""
    lines = []
    for (model, benchmark), arms in cells(rows).items():
        most = max(cell.seeds for cell in arms.values())
        texts = {arm: _accuracy(cell, arm=arm, most=most) for arm, cell in arms.items()}
        lines.append([f"{Path(model).name}, {benchmark}", *(texts.get(arm, "") for arm in comparison.arms)])
    return Table(("accuracy %", *comparison.arms), lines)


def _accuracy(cell: Cell, *, arm: str, most: int) -> str:
    """Accuracy ± error, * where resolved, and the number of seeds where it is not that of the others."""
    star = "*" if cell.difference and cell.difference.resolved else ""
    fewer = f" ({cell.seeds} of {most} seeds)" if cell.seeds < most and ARMS[arm].recipe is not None else ""
    return f"{100 * cell.accuracy:.1f} ± {100 * cell.standard_error:.1f}{star}{fewer}"


def _head(rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    # Broken where a terminal needs it; elsewhere a line break is a space.
    training = "training\nCPU s" if clock_of(rows) == "cpu_seconds" else "training\ns"
    return (
        "arm", "seeds", "accuracy %", f"to {REFERENCE}, points (95 %)", "malformed\n%", "truncated\n%",
        "think / answer\ntokens", training,
    )  # fmt: skip


def _tokens(cell: Cell) -> str:
    """Lengths inside the tags, and their ratio."""
    think, answer = cell.think_tokens, cell.answer_tokens
    if think is None or answer is None:
        return " / ".join("n/a" if value is None else f"{value:.1f}" for value in (think, answer))
    return f"{think:.1f} / {answer:.1f}" + (f" = {think / answer:.0f}" if answer else "")


def _lines(arms: dict[str, Cell]) -> list[tuple[str, ...]]:
    return [
        (
            arm,
            str(cell.seeds) if ARMS[arm].recipe is not None else "",
            f"{100 * cell.accuracy:.1f} ± {100 * cell.standard_error:.1f}",
            cell.verdict,
            _percent(cell.malformed),
            _percent(cell.truncated),
            _tokens(cell),
            "" if cell.seconds is None else f"{cell.seconds:,.{0 if cell.seconds >= 10 else 1}f}",
        )
        for arm, cell in arms.items()
    ]


def _own_scores(arms: dict[str, Cell]) -> Table | None:
    names = sorted({name for cell in arms.values() for name in cell.scores})
    if not names:
        return None
    lines = [(arm, *(_percent(cell.scores.get(name)) for name in names)) for arm, cell in arms.items()]
    return Table(("the benchmark's own score, %", *names), lines)


def _kinds(arms: dict[str, Cell]) -> Table | None:
    names = sorted({name for cell in arms.values() for name in cell.kinds})
    if not names:
        return None
    lines = [
        (arm, *("" if cell.malformed is None else f"{100 * cell.kinds.get(name, 0.0):.2f}" for name in names))
        for arm, cell in arms.items()
    ]
    return Table(("malformed %, by kind", *names), lines)


def _legend(rows: Sequence[dict[str, Any]]) -> str:
    """What the columns mean, with the basis of the intervals as the statistics name it."""
    bases = {cell.difference.basis for arms in cells(rows).values() for cell in arms.values() if cell.difference}
    parts = [
        "Accuracy ± standard error over questions and seeds; differences in points over the seeds that both arms have, "
        f'with the widest 95 % interval; "not resolved" where an interval holds zero, * where with several seeds none '
        f"does (difference to {REFERENCE}).",
        *(f"Intervals: {basis}." for basis in sorted(bases)),
        "Malformed: not of the form <think>..</think><answer>..</answer>; n/a for arms whose format has no think.",
    ]
    return " ".join(parts)


def _verdicts(rows: Sequence[dict[str, Any]]) -> list[Block]:
    """The paper's claims, benchmark by benchmark, and the ratio of training times."""
    places: dict[tuple[str, ...], list[str]] = {}
    ratios = []
    for model, benchmark in cells(rows):
        if benchmark.endswith(BLANK):
            continue
        here = [row for row in rows if (row["model"], row["benchmark"]) == (model, benchmark)]
        place = f"{Path(model).name}, {benchmark}"
        for claim in claims(here):
            # What does not depend on the benchmark, such as training time, is said once a model.
            told = places.setdefault((Path(model).name, claim.sentence, claim.verdict, claim.figures), [])
            told.append(benchmark)
        ratios += [Text(f"{place}: {found}") for found in [time_ratio(here)] if found]
    if not places:
        return []
    lines = [
        (sentence, f"{name}, {', '.join(benchmarks)}", verdict, figures)
        for (name, sentence, verdict, figures), benchmarks in places.items()
    ]
    order = list(dict.fromkeys(line[0] for line in lines))
    lines.sort(key=lambda line: order.index(line[0]))
    table = Table(("what the paper's abstract says", "where", "here", "figures (95 %)"), lines)
    return [Heading("The paper's claims, on these runs", 2), table, *ratios]


def _stages(rows: Sequence[dict[str, Any]]) -> list[Block]:
    """Time of every training stage, as mean over seeds."""
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    first = {(row["model"], row["arm"], row["seed"]): row for row in rows}
    for (model, arm, _), row in first.items():
        for stage in row["stages"]:
            found.setdefault((model, arm, stage["name"]), []).append(stage)
    if not found:
        return []
    names = ("seconds", "cpu_seconds", "steps", "tokens")
    lines = [
        (Path(model).name, arm, kind, *(f"{sum(s[name] or 0 for s in stages) / len(stages):,.0f}" for name in names))
        for (model, arm, kind), stages in found.items()
    ]
    return [Table(("model", "arm", "stage", "seconds", "CPU seconds", "steps", "tokens"), lines)]


def _keep_examples(examples: Sequence[Example], folder: Path) -> None:
    """Keep the chosen examples with their pictures: predictions may be gone when the report is made again."""
    for path in folder.glob("*"):
        if _OWN_PICTURE.fullmatch(path.name):  # whatever else stands there is not ours
            path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    kept = []
    for number, example in enumerate(examples, start=1):
        names = [f"{number}-{index}{source.suffix}" for index, source in enumerate(example.pictures)]
        for name, source in zip(names, example.pictures, strict=True):
            shutil.copyfile(source, folder / name)
        kept.append({**dataclasses.asdict(example), "pictures": names})
    write_json(folder / EXAMPLES_FILE, kept)


def _kept_examples(folder: Path) -> list[Example]:
    try:
        kept = json.loads((folder / EXAMPLES_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [
        Example(
            each["question"],
            [folder / name for name in each["pictures"] if (folder / name).is_file()],
            each["reference"],
            [Answer(**answer) for answer in each["answers"]],
        )
        for each in kept
    ]


def _arms_of(examples: Sequence[Example]) -> set[str]:
    return {answer.arm for example in examples for answer in example.answers}


def _examples(comparison: Comparison, output: Path, *, count: int = 4) -> list[Example]:
    """Questions on which the arms disagree, with the picture and what each arm wrote."""
    stages = [stage for stage in plan_stages(comparison, output) if stage.kind == "evaluate" and not stage.blank_images]
    stages = [stage for stage in stages if stage.seed in (comparison.seeds[0], 0)]
    if not stages:
        return []
    model, benchmark = stages[0].model, stages[0].benchmark
    chosen = [stage for stage in stages if stage.model == model and stage.benchmark == benchmark]
    answers = {stage.arm: _predictions(stage) for stage in chosen}
    # An arm that failed, or is still to come, must not take the examples of the others away.
    answers = {arm: found for arm, found in answers.items() if found}
    shared = [key for key in next(iter(answers.values()), {}) if all(key in found for found in answers.values())]
    split = [key for key in shared if len({bool(found[key]["correct"]) for found in answers.values()}) > 1]
    keys = _spread(split or shared, answers, count)
    return [_example({arm: found[key] for arm, found in answers.items()}) for key in keys]


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


def _example(rows: dict[str, dict[str, Any]]) -> Example:
    first = next(iter(rows.values()))
    return Example(
        question=first.get("question") or first["id"],
        pictures=[path for picture in first.get("images") or [] if (path := Path(str(picture))).is_file()],
        reference=str(first.get("reference")),
        answers=[Answer(arm, bool(row["correct"]), row["response"]) for arm, row in rows.items()],
    )


def _predictions(stage: Stage) -> dict[str, dict[str, Any]]:
    rows = read_jsonl(stage.output / "predictions" / f"{stage.file_name}.jsonl")
    return {row["id"]: row for row in rows}


def _configuration(comparison: Comparison, output: Path) -> dict[str, Any]:
    """Settings, and the versions and commits that the folder's calls were made with (not those of this report)."""
    settings = json.loads(json.dumps(vars(comparison), default=list))
    try:
        told = json.loads((output / "comparison.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        told = {"packages": package_versions(), "commit": source_commit()}
    made = told.get("made_by") or [{key: told.get(key) for key in ("commit", "packages")}]
    return {**settings, "made_by": made}


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f}"
