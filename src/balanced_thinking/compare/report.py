"""A comparison for people: a table in the terminal, ``report.md`` and a self-contained ``report.html``.

Everything is made from ``results.jsonl`` and the run folders, so ``balanced report`` can make it again at any time.
The content stands here once, as blocks; ``render`` writes them as Markdown and as HTML. What it leaves out: the figures
themselves (``statistics``) and plots (``plots``). Torch-free.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from balanced_thinking.compare.comparison import ARMS, Comparison
from balanced_thinking.compare.plan import BLANK, Stage, plan_stages
from balanced_thinking.compare.plots import write_plots
from balanced_thinking.compare.render import Answer, Block, Code, Example, Heading, Image, Table, Text, html, markdown
from balanced_thinking.compare.statistics import REFERENCE, Cell, cells, claims, seconds_compare, time_ratio
from balanced_thinking.runinfo import package_versions, read_jsonl, source_commit, write_text

_HEAD = (
    "arm", "accuracy %", f"to {REFERENCE}, points (95 %)", "malformed %", "truncated %", "think tokens",
    "training s",
)  # fmt: skip
_CITE = (
    "Method: SCALe; Perek, Wiesel, Dekel, Shabtay, Schwartz: Balanced Thinking: Improving Chain of Thought Training in "
    "Vision Language Models, arXiv:2603.18656, 2026. Pictures of the benchmarks icons and icons-unseen: Twemoji, "
    "Copyright 2019 Twitter, Inc and other contributors, CC-BY 4.0, resized on coloured ground."
)


def write_report(comparison: Comparison, rows: Sequence[dict[str, Any]], output: Path) -> Path:
    """Write ``report.html``, ``report.md``, ``plots/`` and ``examples/`` under ``output``; returns the HTML page."""
    output = Path(output)
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
        console = Console(width=120)
    for (model, benchmark), arms in cells(rows).items():
        table = RichTable(title=f"{benchmark}, {Path(model).name}", title_justify="left", box=box.SIMPLE_HEAD)
        for number, name in enumerate(_HEAD):
            table.add_column(name, justify="left" if number in (0, 2) else "right", no_wrap=number < 2)
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
        blocks += [Heading(f"{benchmark}, {Path(model).name}", 2), Table(_HEAD, _lines(arms))]
        blocks += [table for table in (_own_scores(arms), _kinds(arms)) if table]
    blocks += [Heading("Training", 2), *_stages(rows)]
    if not seconds_compare(rows):
        blocks.append(Text("Trainings did not all run alone with the same threads: compare CPU seconds, not seconds."))
    blocks += plots.values()
    examples = _examples(comparison, output)
    if examples:
        blocks += [Heading("Examples", 2), *examples]
    configuration = json.dumps(_configuration(comparison), indent=2)
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
        line = [f"{Path(model).name}, {benchmark}"]
        for arm in comparison.arms:
            cell = arms.get(arm)
            star = "*" if cell and cell.difference and cell.difference.resolved else ""
            line.append(f"{100 * cell.accuracy:.1f} ± {100 * cell.standard_error:.1f}{star}" if cell else "")
        lines.append(line)
    return Table(("accuracy %", *comparison.arms), lines)


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
        "Accuracy ± standard error (with several seeds: of the seed means); differences in points, with the widest "
        f'95 % interval; "not resolved" where an interval holds zero, * where none does (difference to {REFERENCE}).',
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


def _examples(comparison: Comparison, output: Path, *, count: int = 4) -> list[Block]:
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


def _configuration(comparison: Comparison) -> dict[str, Any]:
    settings = json.loads(json.dumps(vars(comparison), default=list))
    return {**settings, "packages": package_versions(), "commit": source_commit()}


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f}"
