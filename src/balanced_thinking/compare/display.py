"""Running stages of a comparison as people see them: bars or plain lines, ends of logs, and who else is at work.

What it leaves out: starting and ending stages (``run``). Torch-free.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from balanced_thinking.compare.plan import Stage
from balanced_thinking.runinfo import read_jsonl


def busy_beside_us() -> float | None:
    """CPU seconds that this machine has spent on anything but us and the stages that have ended; None where not known.

    Right for a stage that runs alone, the only kind that is asked about.
    """
    if sys.platform != "linux":
        return None
    import psutil

    whole = psutil.cpu_times()
    own = psutil.Process().cpu_times()
    busy = sum(getattr(whole, name) for name in ("user", "nice", "system", "irq", "softirq"))
    return busy - (own.user + own.system + own.children_user + own.children_system)


@dataclass
class Running:
    """A stage with its process and log."""

    stage: Stage
    process: subprocess.Popen
    log: Path
    started: float = field(default_factory=time.perf_counter)
    busy: float | None = field(default_factory=busy_beside_us)


def progress_of(stage: Stage) -> tuple[int, int | None, str]:
    """(done, total or None, figures) of a running stage, from the files that it writes."""
    if stage.trains:
        rows = read_jsonl(stage.folder / "metrics.jsonl")
        last = next((row for row in reversed(rows) if "loss" in row), None)
        if last is None:
            return 0, stage.recipe.get("max_steps"), ""
        keys = [key for key in last if (key.startswith("scale/nll_") and key != "scale/nll_token") or key == "reward"]
        figures = "  ".join(f"{key.removeprefix('scale/')} {last[key]:.2f}" for key in keys if key in last)
        return last["step"], last["total_steps"], figures
    file = stage.output / "predictions" / f"{stage.file_name}.jsonl"
    rows = read_jsonl(file)
    right = sum(bool(row.get("correct")) for row in rows)
    return len(rows), None, f"accuracy {100 * right / len(rows):.1f} %" if rows else ""


def tail(log: Path, lines: int) -> list[str]:
    """The last lines of a log."""
    return log.read_text(encoding="utf-8", errors="replace").strip().split("\n")[-lines:]


class Display:
    """A bar for every running stage and one for all of them; plain lines where no terminal is."""

    def __init__(self, stages: Sequence[Stage], waiting: Sequence[Stage]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.console = Console(stderr=True)
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.progress = Progress(*columns, TextColumn("{task.fields[figures]}"), console=self.console)
        self.tasks: dict[str, Any] = {}
        self.said: dict[str, float] = {}
        done = len(stages) - len(waiting)
        self.total = self.progress.add_task("all stages", total=len(stages), completed=done, figures="")
        if done:
            self.console.print(f"{done} of {len(stages)} stages are complete already")
        if self.console.is_terminal:
            self.progress.start()

    def update(self, running: Sequence[Running]) -> None:
        """Read how far each stage is."""
        for item in running:
            label = item.stage.label
            done, total, figures = progress_of(item.stage)
            if self.console.is_terminal:
                if label not in self.tasks:
                    self.tasks[label] = self.progress.add_task(label, total=total, figures="")
                self.progress.update(self.tasks[label], completed=done, total=total, figures=figures)
            elif time.perf_counter() - self.said.get(label, item.started) > 30:
                self.said[label] = time.perf_counter()
                self.console.print(f"  {label}: {done}{f'/{total}' if total else ''}  {figures}", highlight=False)

    def ended(self, item: Running, *, ok: bool) -> None:
        """Say what came of a stage; show the end of its log if it failed."""
        label, seconds = item.stage.label, time.perf_counter() - item.started
        if label in self.tasks:
            self.progress.remove_task(self.tasks.pop(label))
        self.progress.advance(self.total)
        _, _, figures = progress_of(item.stage)
        mark = "done" if ok else f"FAILED with code {item.process.returncode}, see {item.log}"
        self.console.print(f"{label}: {mark} in {seconds:.0f} s  {figures if ok else ''}", highlight=False)
        if not ok:
            self.console.print("\n".join(f"    {line}" for line in tail(item.log, 8)), highlight=False, markup=False)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.console.is_terminal:
            self.progress.stop()
