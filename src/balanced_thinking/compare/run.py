"""Runs the stages of a comparison as processes of the command, shows how far they are, and gathers the results.

Stopped at any moment and started again, it goes on: a finished stage is not run again, an unfinished one resumes by
itself. A stage that fails is reported with the end of its log, and the stages that do not need it go on.
What it leaves out: which stages there are (``plan``) and what their results mean (``statistics``, ``report``).
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from balanced_thinking.compare.comparison import ARMS, Comparison
from balanced_thinking.compare.plan import Stage, plan_stages, training_stages
from balanced_thinking.errors import ConfigError
from balanced_thinking.runinfo import content_hash, read_jsonl, run_info, write_json, write_text

RESULTS_FILE, SETTINGS_FILE, STAGE_FILE = "results.jsonl", "comparison.json", "stage.json"
_POLL_SECONDS = 0.5
DIE_WITH_PARENT = "BALANCED_THINKING_DIE_WITH_PARENT"


@dataclass
class Running:
    """A stage with its process and log."""

    stage: Stage
    process: subprocess.Popen
    log: Path
    started: float = field(default_factory=time.perf_counter)


def run_comparison(comparison: Comparison, output: Path, *, resolve: Any = str) -> list[dict[str, Any]]:
    """Run what is missing and return the rows of ``results.jsonl``, which are also written after every stage.

    Arms, seeds and benchmarks that the folder holds from earlier calls stay in the results.

    Args:
        comparison: What to compare.
        output: Folder of the comparison; holds one of the same settings, or none.
        resolve: Turns a model's name into a folder or hub id.

    Raises:
        ConfigError: ``output`` holds a comparison of other settings.
    """
    output = Path(output)
    whole = with_earlier(comparison, output)
    _same_settings(comparison, whole, output)
    stages = plan_stages(comparison, output)
    models = {model: str(resolve(model)) for model in comparison.models}
    waiting = missing(comparison, output)
    failed: list[Stage] = []
    running: list[Running] = []
    show = _Display(stages, waiting)
    try:
        while waiting or running:
            for stage in _startable(waiting, [item.stage for item in running], comparison):
                waiting.remove(stage)
                running.append(_start(stage, comparison, models[stage.model]))
            time.sleep(_POLL_SECONDS)
            show.update(running)
            for item in [item for item in running if item.process.poll() is not None]:
                running.remove(item)
                ok = item.process.returncode == 0 and is_done(item.stage)
                show.ended(item, ok=ok)
                if not ok:
                    failed.append(item.stage)
                    waiting = _without_dependants(waiting, item.stage)
                _write_results(gather(whole, output), output)
    finally:
        for item in running:
            item.process.terminate()
            item.process.wait()
        show.close()
    rows = gather(whole, output)
    _write_results(rows, output)
    if failed:
        print(
            f"{len(failed)} of {len(stages)} stages failed: {', '.join(stage.label for stage in failed)}",
            file=sys.stderr,
        )
    return rows


def run_stage(stage: Stage, comparison: Comparison, model: str) -> None:
    """Run one stage to its end.

    Raises:
        ConfigError: it failed; with the end of its log.
    """
    item = _start(stage, comparison, model)
    try:
        code = item.process.wait()
    finally:
        item.process.kill()
    if code != 0 or not is_done(stage):
        raise ConfigError(f"{stage.label} failed with code {code}: {_tail(item.log, 1)[0].removeprefix('balanced: ')}")


def is_done(stage: Stage) -> bool:
    """Whether the stage's own files say that it is complete."""
    if stage.trains:
        return _finished(stage.folder)
    return metrics_file(stage).is_file()


def metrics_file(stage: Stage) -> Path:
    """Where an evaluation puts its figures when it is complete."""
    return stage.output / "metrics" / f"{stage.file_name}.json"


def missing(comparison: Comparison, output: Path) -> list[Stage]:
    """What is left to run: evaluations that have neither files nor a row, and the trainings that these start from.

    ``results.jsonl`` is enough for an evaluation to count as complete, so that a folder whose models were removed (or
    never committed) can be added to without making them again.
    """
    recorded, stages = _recorded(output), plan_stages(comparison, Path(output))
    left = [stage for stage in stages if not stage.trains and not is_done(stage) and _key(stage) not in recorded]
    starts = {stage.start for stage in left}
    for stage in reversed(stages):  # a training stands before what starts from it
        if stage.trains and stage.folder in starts and not is_done(stage):
            left.append(stage)
            starts.add(stage.start)
    return [stage for stage in stages if stage in left]


def _key(stage: Stage) -> tuple[str, str, int, str]:
    return stage.model, stage.arm, stage.seed, stage.questions


def _recorded(output: Path) -> dict[tuple[str, str, int, str], dict[str, Any]]:
    rows = read_jsonl(Path(output) / RESULTS_FILE)
    return {(row["model"], row["arm"], row["seed"], row["benchmark"]): row for row in rows}


def gather(comparison: Comparison, output: Path) -> list[dict[str, Any]]:
    """The rows of ``results.jsonl``: from the run folders, and as recorded before where these are gone."""
    rows, recorded = [], _recorded(output)
    for stage in plan_stages(comparison, Path(output)):
        if stage.kind == "evaluate" and not is_done(stage) and _key(stage) in recorded:
            rows.append(recorded[_key(stage)])
        elif stage.kind == "evaluate" and is_done(stage):
            figures = _read(metrics_file(stage))
            rows.append(
                {
                    "model": stage.model,
                    "arm": stage.arm,
                    "seed": stage.seed,
                    "benchmark": stage.questions,
                    **{key: figures.get(key) for key in _RESULT_FIELDS},
                    "stages": [_timing(trained) for trained in _trainings(comparison, output, stage)],
                }
            )
    return rows


_RESULT_FIELDS = (
    "n", "accuracy", "accuracy_se", "malformed", "malformed_kinds", "truncated", "correct", "think_tokens",
    "answer_tokens",
)  # fmt: skip


def _trainings(comparison: Comparison, output: Path, stage: Stage) -> list[Stage]:
    return training_stages(comparison, output, model=stage.model, arm=stage.arm, seed=stage.seed)


def _timing(stage: Stage) -> dict[str, Any]:
    clock, how = _read(stage.folder / "run.json").get("stage", {}), _read(stage.folder / STAGE_FILE)
    figures = {key: clock.get(key) for key in ("seconds", "cpu_seconds", "steps", "tokens")}
    return {"name": stage.kind, **figures, "alone": how.get("alone", False), "threads": how.get("threads")}


def _finished(folder: Path) -> bool:
    return bool(_read(folder / "run.json").get("finished"))


def _without_dependants(stages: Sequence[Stage], failed: Stage) -> list[Stage]:
    """The stages that can still run after a training failed: not its evaluations, nor what starts from it."""
    lost = {failed.folder} if failed.trains else set()
    for stage in stages:  # a training stands before what starts from it
        if stage.trains and stage.start in lost:
            lost.add(stage.folder)
    return [stage for stage in stages if stage.start not in lost and stage.folder not in lost]


def _write_results(rows: Sequence[dict[str, Any]], output: Path) -> None:
    write_text(output / RESULTS_FILE, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def with_earlier(comparison: Comparison, output: Path) -> Comparison:
    """The comparison with the arms, seeds and benchmarks that earlier calls have left in its folder, theirs first."""
    earlier = _read(Path(output) / SETTINGS_FILE).get("config", {})
    lists: dict[str, Any] = {
        name: tuple(dict.fromkeys([*earlier.get(name, ()), *getattr(comparison, name)]))
        for name in ("arms", "seeds", "benchmarks")
    }
    lists["arms"] = tuple(sorted((arm for arm in lists["arms"] if arm in ARMS), key=list(ARMS).index))
    grpo = comparison.grpo or earlier.get("grpo") or {}
    blank = comparison.blank_images or bool(earlier.get("blank_images"))
    return dataclasses.replace(comparison, **lists, grpo=grpo, blank_images=blank)


def _same_settings(comparison: Comparison, whole: Comparison, output: Path) -> None:
    """Refuse a folder that holds something else; seeds, arms and benchmarks may be added to."""
    settings = json.loads(json.dumps(vars(whole), default=list))
    fixed = {key: settings[key] for key in ("models", "recipe", "limit", "max_new_tokens", "launch")}
    if comparison.with_grpo:
        fixed["grpo"] = settings["grpo"]
    file = output / SETTINGS_FILE
    before = _read(file).get("fixed", {})
    changed = [name for key in fixed if key in before for name in _differing(key, before[key], fixed[key])]
    if changed:
        raise ConfigError(
            f"{output} holds a comparison with other settings ({', '.join(changed)}); "
            "choose another folder, or remove it"
        )
    write_json(file, {**run_info(settings), "fixed": {**before, **fixed}})


def _startable(waiting: Sequence[Stage], running: Sequence[Stage], comparison: Comparison) -> list[Stage]:
    """Stages that can start now; never two in one folder at once, and no timed training beside anything else."""
    taken = {stage.folder for stage in running}
    busy, chosen = list(running), []
    for stage in waiting:
        timed = comparison.with_grpo and any(other.trains for other in (stage, *busy))
        if len(busy) >= comparison.jobs or (timed and busy):
            break
        if stage.folder not in taken and (stage.start is None or _finished(stage.start)):
            taken.add(stage.folder)
            busy.append(stage)
            chosen.append(stage)
    return chosen


def _start(stage: Stage, comparison: Comparison, model: str) -> Running:
    stage.folder.mkdir(parents=True, exist_ok=True)
    log = stage.folder / f"{stage.kind}.log"
    threads = _threads(stage, comparison)
    if stage.trains:
        earlier = _read(stage.folder / STAGE_FILE)
        how = {"alone": _alone(comparison) and earlier.get("alone", True), "threads": threads}
        write_json(stage.folder / STAGE_FILE, how)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, *_launcher(stage, comparison), *_command(stage, comparison, model)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**environment, DIE_WITH_PARENT: "1"},
            preexec_fn=die_with_parent if sys.platform == "linux" else None,
        )
    return Running(stage, process, log)


def _differing(name: str, before: Any, now: Any) -> list[str]:
    """The names of what differs, down to the fields of a recipe."""
    if content_hash(before) == content_hash(now):
        return []
    if not isinstance(before, dict) or not isinstance(now, dict):
        return [name]
    return sorted(f"{name}.{key}" for key in {*before, *now} if before.get(key) != now.get(key))


def _alone(comparison: Comparison) -> bool:
    """Whether a training runs beside nothing else."""
    return comparison.with_grpo or comparison.jobs == 1


def _threads(stage: Stage, comparison: Comparison) -> int:
    """What the user says; else all cores for a stage that runs alone, and a share of them for one that does not."""
    cores = os.cpu_count() or 1
    beside = 1 if stage.trains and _alone(comparison) else comparison.jobs
    return comparison.threads or max(1, cores // beside)


def _launcher(stage: Stage, comparison: Comparison) -> list[str]:
    launched = ["-m", "accelerate.commands.launch", *comparison.launch] if stage.trains and comparison.launch else []
    return [*launched, "-m", "balanced_thinking.cli.main"]


def _command(stage: Stage, comparison: Comparison, model: str) -> list[str]:
    start = model if stage.start is None else str(stage.start)
    if stage.trains:
        recipe = stage.folder / "recipe.yaml"
        fields = {**stage.recipe, "model_name_or_path": start}
        write_text(recipe, yaml.safe_dump(json.loads(json.dumps(fields, default=list)), sort_keys=False))
        return [stage.kind, "--config", str(recipe)]
    command = ["evaluate", "--model", start]
    command += ["--benchmark", stage.benchmark, "--output_dir", str(stage.output)]
    for name in ("limit", "max_new_tokens"):
        if getattr(comparison, name) is not None:
            command += [f"--{name}", str(getattr(comparison, name))]
    if stage.recipe.get("system_prompt") or comparison.recipe.get("system_prompt"):
        command += ["--system_prompt", comparison.recipe["system_prompt"]]
    command += ["--blank_images"] * stage.blank_images + ["--answers_only"] * (not ARMS[stage.arm].thinks)
    return command


def die_with_parent() -> None:
    """A killed comparison must not leave a stage behind that writes into the folder of its successor (Linux).

    Called by each process of a stage, since `accelerate launch` puts processes of its own between.
    """
    if sys.platform != "linux":
        return
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


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


def _tail(log: Path, lines: int) -> list[str]:
    return log.read_text(encoding="utf-8", errors="replace").strip().split("\n")[-lines:]


class _Display:
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
            self.console.print("\n".join(f"    {line}" for line in _tail(item.log, 8)), highlight=False, markup=False)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.console.is_terminal:
            self.progress.stop()
