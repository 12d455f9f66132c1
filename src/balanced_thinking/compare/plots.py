"""Plots of a comparison, each as PNG for people and papers and as SVG for the HTML report.

One colour per arm throughout. What it leaves out: the numbers beside them (``report``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from balanced_thinking.compare.comparison import ARMS, Comparison
from balanced_thinking.compare.plan import BLANK, Stage, plan_stages
from balanced_thinking.compare.statistics import cells, clock_of
from balanced_thinking.runinfo import read_jsonl

# Okabe and Ito's palette, which colour-blind readers can tell apart, on light and on dark ground.
# What no palette of eight can hold follows from matplotlib's tab20b, on which more arms than these would repeat.
_COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#B2A900", "#7B4173", "#8C6D31",
    "#393B79", "#AD494A", "#637939", "#9C9EDE", "#E7969C", "#17BECF",
)  # fmt: skip
_ACCURACY = "accuracy % (± standard error)"
Curves = Sequence[tuple[Stage, list[dict[str, Any]]]]


@dataclass(frozen=True, slots=True)
class Plot:
    """A finished plot: its title, and its PNG; the SVG stands beside it."""

    title: str
    path: Path


def write_plots(comparison: Comparison, rows: Sequence[dict[str, Any]], output: Path) -> list[Plot]:
    """Write the plots that the data allow under ``plots/``."""
    import matplotlib

    matplotlib.use("Agg")
    folder = Path(output) / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    # Names of models and benchmarks are text, also where they hold a dollar sign.
    matplotlib.rcParams["text.parse_math"] = False
    colours = {arm: _COLOURS[i % len(_COLOURS)] for i, arm in enumerate(comparison.arms)}
    curves, clock = _curves(comparison, output), clock_of(rows)
    makers: list[tuple[str, str, Callable[[], Any]]] = [
        ("accuracy", "accuracy by arm", lambda: _plot_accuracy(rows, colours)),
        (
            "trade-off",
            "accuracy against training seconds"
            if clock != "cpu_seconds"
            else "accuracy against CPU seconds of training",
            lambda: _plot_trade_off(rows, colours, clock) if clock else None,
        ),
        ("nll", "nll of each segment during SFT", lambda: _plot_panels(curves, colours, _nll_panels(curves))),
        ("weights", "weights of the segments", lambda: _plot_weights(curves, colours)),
        ("reward", "reward, length and spread during GRPO", lambda: _plot_panels(curves, colours, _GRPO)),
    ]
    written = []
    for name, title, make in makers:
        figure = make()
        if figure is not None:
            _save(figure, folder / f"{name}.png")
            written.append(Plot(title, folder / f"{name}.png"))
    return written


def _curves(comparison: Comparison, output: Path) -> Curves:
    trained = [stage for stage in plan_stages(comparison, Path(output)) if stage.trains]
    found = [(stage, [row for row in read_jsonl(stage.folder / "metrics.jsonl") if "loss" in row]) for stage in trained]
    return [(stage, rows) for stage, rows in found if rows]


# (key in metrics.jsonl, title, unit)
_GRPO = (
    ("reward", "reward", "mean of the step"),
    ("completions/mean_length", "completion length", "tokens"),
    ("frac_reward_zero_std", "groups without spread", "share"),
)


WEIGHT, NLL, TOKEN = "scale/weight_", "scale/nll_", "token"
# The last segment, the answer, has the full line.
_STYLES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 3)))


def _keys(rows: Sequence[dict[str, Any]], start: str) -> list[str]:
    """The keys of one figure of every segment, in segment order."""
    return list(dict.fromkeys(key for row in rows for key in row if key.startswith(start)))


def _nll_panels(curves: Curves) -> list[tuple[str, str, str]]:
    keys = _keys([row for _, rows in curves for row in rows], NLL)
    return [(key, key.removeprefix(NLL), "nats a token") for key in keys if key != NLL + TOKEN]


def _plot_panels(curves: Curves, colours: dict[str, str], panels: Sequence[tuple[str, str, str]]) -> Any:
    logged = {key for _, rows in curves for row in rows for key in row}
    panels = [panel for panel in panels if panel[0] in logged]
    if not panels:
        return None
    figure, axes = _axes(len(panels))
    for axis, (key, title, unit) in zip(axes, panels, strict=True):
        for stage, rows in curves:
            _line(axis, [(row["step"], row[key]) for row in rows if row.get(key) is not None], colours, stage.arm)
        axis.set(title=title, xlabel="optimizer step", ylabel=unit, ylim=(0, None))
        _legend(axis)
    return figure


def _plot_weights(curves: Curves, colours: dict[str, str]) -> Any:
    weighted = [(stage, rows) for stage, rows in curves if _keys(rows, WEIGHT)]
    if not weighted:
        return None
    seed = min(stage.seed for stage, _ in weighted)
    figure, (axis,) = _axes(1)
    for stage, rows in weighted:
        for key, style in zip(reversed(_keys(rows, WEIGHT)), cycle(_STYLES), strict=False):
            if stage.seed == seed:
                points = [(row["step"], row[key]) for row in rows if key in row]
                label = f"{stage.arm}: {key.removeprefix(WEIGHT)}"
                _line(axis, points, colours, stage.arm, label=label, style=style)
    axis.set(title="segment weights", xlabel="optimizer step", ylabel="weight", ylim=(0, None))
    _legend(axis)
    return figure


def _plot_accuracy(rows: Sequence[dict[str, Any]], colours: dict[str, str]) -> Any:
    found = cells(rows)
    if not found:
        return None
    figure, axes = _axes(len(found), width=1.4 + 0.45 * len(colours))
    for axis, ((model, benchmark), arms) in zip(axes, found.items(), strict=True):
        heights = [100 * cell.accuracy for cell in arms.values()]
        errors = [100 * cell.standard_error for cell in arms.values()]
        bars = axis.bar(list(arms), heights, yerr=errors, capsize=3, color=[colours[arm] for arm in arms])
        axis.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
        axis.set(title=f"{benchmark}\n{Path(model).name}", ylabel=_ACCURACY, ylim=(0, 105))
        axis.tick_params(axis="x", rotation=40)
    return figure


def _plot_trade_off(rows: Sequence[dict[str, Any]], colours: dict[str, str], clock: str) -> Any:
    """One point an arm: what its training cost and what it gave; with GRPO, a line from the SFT that it starts from."""
    found = {place: arms for place, arms in cells(rows).items() if not place[1].endswith(BLANK)}
    if not any(cell.seconds for arms in found.values() for cell in arms.values()):
        return None
    figure, axes = _axes(len(found))
    for axis, ((model, benchmark), arms) in zip(axes, found.items(), strict=True):
        for arm, cell in arms.items():
            at, height = cell.seconds or 0.0, 100 * cell.accuracy
            start = arms.get(ARMS[arm].after or "")
            if start is not None and start.seconds:
                axis.plot([start.seconds, at], [100 * start.accuracy, height], ":", color=colours[arm], linewidth=1)
            axis.errorbar(at, height, yerr=100 * cell.standard_error, fmt="o", capsize=3, color=colours[arm], label=arm)
        unit = "training seconds" if clock == "seconds" else "training, CPU seconds"
        axis.set(title=f"{benchmark}\n{Path(model).name}", xlabel=unit, ylabel=_ACCURACY)
        _legend(axis)
    return figure


def _line(
    axis: Any,
    points: Sequence[tuple[float, float]],
    colours: dict[str, str],
    arm: str,
    *,
    label: str = "",
    style: Any = "-",
) -> None:
    if points:
        steps, values = zip(*points, strict=True)
        # An SFT that only stands before GRPO is no arm of its own in the table.
        axis.plot(
            steps, values, linestyle=style, color=colours.get(arm, _COLOURS[6]), label=label or arm, linewidth=1.3
        )


def _legend(axis: Any) -> None:
    handles, labels = axis.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    axis.legend(once.values(), once.keys(), frameon=False, fontsize=8)


def _axes(count: int, *, width: float = 4.4) -> tuple[Any, list[Any]]:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, count, figsize=(width * count, 3.6), squeeze=False)
    return figure, list(axes[0])


def _save(figure: Any, path: Path) -> None:
    """PNG on white; SVG without ground, its black turned to the text colour of the page that shows it."""
    import matplotlib.pyplot as plt

    figure.tight_layout()
    figure.savefig(path, dpi=110)
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": path.stem}):
        figure.savefig(path.with_suffix(".svg"), transparent=True, metadata={"Date": None})
    plt.close(figure)
    svg = path.with_suffix(".svg")
    text = svg.read_text(encoding="utf-8").replace("#000000", "currentColor")
    svg.write_text(text[text.index("<svg") :], encoding="utf-8")
