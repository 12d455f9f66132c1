"""What a run writes and shows while it trains: ``metrics.jsonl``, ``clock.json`` and one progress bar.

What it leaves out: other loggers (``report_to`` works as everywhere in transformers).
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from balanced_thinking.runinfo import append_jsonl, read_jsonl, write_json, write_text

METRICS_FILE, CLOCK_FILE = "metrics.jsonl", "clock.json"


class MetricsFile(TrainerCallback):
    """One JSON line a log entry, with the seconds of this attempt; lines after a resumed step are replaced."""

    def __init__(self, folder: Path) -> None:
        self.path = Path(folder) / METRICS_FILE

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.start = time.perf_counter()
        if state.is_world_process_zero:
            kept = [row for row in read_jsonl(self.path) if row.get("step", 0) <= state.global_step]
            kept = kept if state.global_step else []
            write_text(self.path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The last step is logged however rarely, and however few steps there are; its mean is over the steps since.
        if state.global_step >= state.max_steps and args.logging_strategy == "steps":
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and logs:
            seconds = round(time.perf_counter() - self.start, 3)
            row = {"step": state.global_step, "total_steps": state.max_steps, "seconds": seconds, **logs}
            append_jsonl(self.path, row)


class Clock(TrainerCallback):
    """Wall and CPU seconds of a training stage, summed over attempts, kept in ``clock.json`` through kills."""

    def __init__(self, folder: Path) -> None:
        self.path = Path(folder) / CLOCK_FILE
        self.before = {"seconds": 0.0, "cpu_seconds": 0.0, "attempts": 0}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.path.is_file():
            self.before = json.loads(self.path.read_text(encoding="utf-8"))
        self.start = (time.perf_counter(), _cpu_seconds())
        self._write(state)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step < state.max_steps:
            self._write(state)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # A run killed behind its last checkpoint has nothing left to train; then this is what stays.
        self._write(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._write(state)

    def _write(self, state: Any) -> None:
        if not state.is_world_process_zero:
            return
        write_json(
            self.path,
            {
                "seconds": self.before["seconds"] + time.perf_counter() - self.start[0],
                "cpu_seconds": self.before["cpu_seconds"] + _cpu_seconds() - self.start[1],
                "attempts": self.before["attempts"] + 1,
                "steps": state.global_step,
                "tokens": state.num_input_tokens_seen,
            },
        )


class Console(TrainerCallback):
    """One bar with the loss and the nll of each segment; plain lines, every tenth of the way, where no terminal is.

    ``opening`` says what a run trains on; it is shown before the first step, with steps, device and precision.
    """

    def __init__(self, title: str) -> None:
        self.title, self.opening = title, ""
        self.text, self.evaluated = "", ""
        self.said, self.due, self.logged = 0, False, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar = None
        if not state.is_world_process_zero:
            return
        if self.opening:
            where = f"{state.max_steps} steps on {args.device}, {_precision(args, kwargs.get('model'))}"
            print(f"{self.title}: {self.opening}; {where}", file=sys.stderr, flush=True)
        if sys.stderr.isatty():
            from rich.console import Console as RichConsole
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, TextColumn("{task.fields[figures]}"), console=RichConsole(stderr=True))
            self.task = self.bar.add_task(self.title, total=state.max_steps, completed=state.global_step, figures="")
            self.bar.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        if self.bar is not None:
            self.bar.update(self.task, completed=state.global_step, figures=self.text + self.evaluated)
        elif self.said < state.global_step * 10 // max(state.max_steps, 1) < 10:
            self.said = state.global_step * 10 // max(state.max_steps, 1)
            # The figures of this step come with its log, which is behind its end.
            self.due = control.should_log
            if not self.due:
                self._print(state)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        logs = logs or {}
        if "eval_loss" in logs:
            self.evaluated = f"  eval_loss {float(logs['eval_loss']):.3f}"
            return
        shown = ["loss", "reward", *(key for key in logs if "scale/nll_" in key)]
        figures = [f"{key.removeprefix('scale/')} {float(logs[key]):.3f}" for key in shown if key in logs]
        if not figures:
            return
        self.text, self.logged = "  ".join(figures), state.global_step
        if not state.is_world_process_zero:
            return
        if self.bar is not None:
            self.bar.update(self.task, figures=self.text + self.evaluated)
        elif self.due:
            self._print(state)
        self.due = False

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The last step is shown here, since what it gave is logged after its end.
        if self.bar is not None:
            self.bar.update(self.task, completed=state.global_step, figures=self.text + self.evaluated)
            self.bar.stop()
        elif state.is_world_process_zero:
            self._print(state)

    def _print(self, state: Any) -> None:
        of = f"  (of step {self.logged})" if self.text and self.logged != state.global_step else ""
        figures = f"step {state.global_step}/{state.max_steps}  {self.text}{of}{self.evaluated}"
        print(f"{self.title}: {figures.rstrip()}", file=sys.stderr, flush=True)


def _precision(args: Any, model: Any) -> str:
    weights = str(getattr(model, "dtype", "unknown")).removeprefix("torch.")
    autocast = next((name for name in ("bf16", "fp16") if getattr(args, name, False)), None)
    return f"weights in {weights}" + (f", {autocast} autocast" if autocast else "")


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
