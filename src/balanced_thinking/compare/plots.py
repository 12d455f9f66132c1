"""Plots of a comparison as PNG: the nll of think and answer over the steps, the weights, the accuracy.

One colour per arm throughout. What it leaves out: the numbers beside them (``report``).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from balanced_thinking.compare.plan import Comparison, Stage, plan_stages
from balanced_thinking.compare.statistics import cells
from balanced_thinking.runinfo import read_jsonl

# Okabe and Ito's palette, which colour-blind readers can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")


def write_plots(comparison: Comparison, rows: Sequence[dict[str, Any]], output: Path) -> list[tuple[str, Path]]:
    """Write the plots that the data allow; (title, path) of each."""
    import matplotlib

    matplotlib.use("Agg")
    folder = Path(output) / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    colours = {arm: _COLOURS[i % len(_COLOURS)] for i, arm in enumerate(comparison.arms)}
    curves = _curves(comparison, output)
    written = []
    for name, title, make in (
        ("nll", "nll of think and answer during training", lambda path: _plot_nll(curves, colours, path)),
        ("weights", "weights of think and answer", lambda path: _plot_weights(curves, colours, path)),
        ("accuracy", "accuracy by arm", lambda path: _plot_accuracy(rows, colours, path)),
    ):
        path = folder / f"{name}.png"
        if make(path):
            written.append((title, path))
    return written


def _curves(comparison: Comparison, output: Path) -> list[tuple[Stage, list[dict[str, Any]]]]:
    trained = [stage for stage in plan_stages(comparison, Path(output)) if stage.kind == "train"]
    found = [(stage, [row for row in read_jsonl(stage.folder / "metrics.jsonl") if "loss" in row]) for stage in trained]
    return [(stage, rows) for stage, rows in found if rows]


def _plot_nll(curves: Sequence[tuple[Stage, list[dict[str, Any]]]], colours: dict[str, str], path: Path) -> bool:
    logged = {key for _, rows in curves for row in rows for key in row}
    keys = [key for key in ("scale/nll_think", "scale/nll_answer") if key in logged]
    if not keys:
        return False
    figure, axes = _axes(len(keys))
    for axis, key in zip(axes, keys, strict=True):
        for stage, rows in curves:
            points = [(row["step"], row[key]) for row in rows if key in row]
            _line(axis, points, colours[stage.arm], stage.arm)
        axis.set(title=key.removeprefix("scale/nll_"), xlabel="optimizer step", ylabel="nats a token", ylim=(0, None))
        _legend(axis)
    return _save(figure, path)


def _plot_weights(curves: Sequence[tuple[Stage, list[dict[str, Any]]]], colours: dict[str, str], path: Path) -> bool:
    weighted = [(stage, rows) for stage, rows in curves if any("scale/weight_answer" in row for row in rows)]
    seeds = {stage.seed for stage, _ in weighted}
    first = [(stage, rows) for stage, rows in weighted if stage.seed == min(seeds)]
    if not first:
        return False
    figure, (axis,) = _axes(1)
    for stage, rows in first:
        for key, style in (("scale/weight_think", "--"), ("scale/weight_answer", "-")):
            points = [(row["step"], row[key]) for row in rows if key in row]
            _line(axis, points, colours[stage.arm], f"{stage.arm}: {key.removeprefix('scale/weight_')}", style=style)
    axis.set(title="segment weights", xlabel="optimizer step", ylabel="weight", ylim=(0, None))
    _legend(axis)
    return _save(figure, path)


def _plot_accuracy(rows: Sequence[dict[str, Any]], colours: dict[str, str], path: Path) -> bool:
    found = cells(rows)
    if not found:
        return False
    figure, axes = _axes(len(found), width=3.2)
    for axis, ((model, benchmark), arms) in zip(axes, found.items(), strict=True):
        heights = [100 * cell.accuracy for cell in arms.values()]
        errors = [196 * cell.standard_error for cell in arms.values()]
        bars = axis.bar(list(arms), heights, yerr=errors, capsize=3, color=[colours[arm] for arm in arms])
        axis.bar_label(bars, fmt="%.1f", padding=3)
        axis.set(title=f"{benchmark}\n{Path(model).name}", ylabel="accuracy % (95 %)", ylim=(0, 105))
        axis.tick_params(axis="x", rotation=30)
    return _save(figure, path)


def _line(axis: Any, points: Sequence[tuple[float, float]], colour: str, label: str, *, style: str = "-") -> None:
    if points:
        steps, values = zip(*points, strict=True)
        axis.plot(steps, values, style, color=colour, label=label, linewidth=1.4, alpha=0.9)


def _legend(axis: Any) -> None:
    handles, labels = axis.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    axis.legend(once.values(), once.keys(), frameon=False)


def _axes(count: int, *, width: float = 4.8) -> tuple[Any, list[Any]]:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, count, figsize=(width * count, 3.6), squeeze=False)
    return figure, list(axes[0])


def _save(figure: Any, path: Path) -> bool:
    import matplotlib.pyplot as plt

    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return True
