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
from pathlib import Path
from typing import Any

import yaml

from balanced_thinking.compare.comparison import ARMS, Comparison
from balanced_thinking.compare.display import Display, Running, busy_beside_us, tail
from balanced_thinking.compare.plan import Stage, plan_stages, training_stages
from balanced_thinking.errors import ConfigError
from balanced_thinking.runinfo import content_hash, read_jsonl, run_info, write_json, write_text

RESULTS_FILE, SETTINGS_FILE, STAGE_FILE = "results.jsonl", "comparison.json", "stage.json"
_POLL_SECONDS = 0.5
# Cores that others kept busy, on average, beside a training that counts as having run alone.
_BESIDE = 0.2
DIE_WITH_PARENT = "BALANCED_THINKING_DIE_WITH_PARENT"


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
    fixed = _same_settings(comparison, whole, output)
    models = {model: str(resolve(model)) for model in comparison.models}
    _write_settings(whole, fixed, output)
    stages = plan_stages(comparison, output)
    waiting = missing(comparison, output)
    failed: list[Stage] = []
    running: list[Running] = []
    show = Display(stages, waiting)
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
                _note_company(item)
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
        raise ConfigError(f"{stage.label} failed with code {code}: {tail(item.log, 1)[0].removeprefix('balanced: ')}")


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
    """The rows of ``results.jsonl``: from the run folders; as recorded before where these are gone or not planned."""
    rows, recorded = [], _recorded(output)
    planned = plan_stages(comparison, Path(output))
    for stage in planned:
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
                    **({"scores": figures["scores"]} if figures.get("scores") else {}),
                    "stages": [_timing(trained) for trained in _trainings(comparison, output, stage)],
                }
            )
    known = {_key(stage) for stage in planned}
    return rows + [row for key, row in recorded.items() if key not in known]


_RESULT_FIELDS = (
    "n", "accuracy", "accuracy_se", "malformed", "malformed_kinds", "truncated", "correct", "think_tokens",
    "answer_tokens",
)  # fmt: skip


def _trainings(comparison: Comparison, output: Path, stage: Stage) -> list[Stage]:
    return training_stages(comparison, output, model=stage.model, arm=stage.arm, seed=stage.seed)


def _timing(stage: Stage) -> dict[str, Any]:
    run, how = _read(stage.folder / "run.json"), _read(stage.folder / STAGE_FILE)
    figures = {key: run.get("stage", {}).get(key) for key in ("seconds", "cpu_seconds", "steps", "tokens")}
    alone = how.get("alone", False) and how.get("beside", 0.0) <= _BESIDE
    return {"name": stage.kind, **figures, "alone": alone, "threads": how.get("threads"), "device": run.get("device")}


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


def _same_settings(comparison: Comparison, whole: Comparison, output: Path) -> dict[str, Any]:
    """What must not change in the folder; refuse one that holds something else, or results of unknown settings.

    Seeds, arms and benchmarks may be added to.
    """
    settings = json.loads(json.dumps(vars(whole), default=list))
    fixed = {key: settings[key] for key in ("models", "recipe", "limit", "max_new_tokens", "launch", "evaluate")}
    if comparison.with_grpo:
        fixed["grpo"] = settings["grpo"]
    before = _read(output / SETTINGS_FILE).get("fixed", {})
    if not before and _recorded(output):
        raise ConfigError(
            f"{output} holds {RESULTS_FILE}, but {SETTINGS_FILE}, which tells how it was made, is missing or cannot be "
            "read; restore it, or choose another folder"
        )
    changed = [name for key in fixed if key in before for name in _differing(key, before[key], fixed[key])]
    if changed:
        raise ConfigError(
            f"{output} holds a comparison with other settings ({', '.join(changed)}); "
            "choose another folder, or remove it"
        )
    return {**before, **fixed}


def _write_settings(whole: Comparison, fixed: dict[str, Any], output: Path) -> None:
    """``comparison.json``: settings, what must not change, and the versions of each call that differed."""
    file = output / SETTINGS_FILE
    info = run_info(json.loads(json.dumps(vars(whole), default=list)))
    made = {key: info[key] for key in ("commit", "packages")}
    before = _read(file)
    calls = before.get("made_by") or [{key: before[key] for key in made if key in before}] * ("packages" in before)
    write_json(file, {**info, "fixed": fixed, "made_by": calls + [made] * (made not in calls)})


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


def _note_company(item: Running) -> None:
    """Write down how many cores others kept busy, on average, while a training ran."""
    now = busy_beside_us()
    if not item.stage.trains or now is None or item.busy is None:
        return
    file = item.stage.folder / STAGE_FILE
    beside = max(0.0, (now - item.busy) / max(time.perf_counter() - item.started, 1e-9))
    how = _read(file)
    write_json(file, {**how, "beside": round(max(beside, how.get("beside", 0.0)), 3)})


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
    # Given even where empty: all arms are asked alike, whatever the run folder of one of them says.
    shared: dict[str, Any] = {
        "system_prompt": comparison.recipe.get("system_prompt") or "",
        "scale_segments": comparison.recipe.get("scale_segments"),
        "chat_template_kwargs": {},
    }
    for name, value in {**shared, **comparison.evaluate}.items():
        if value not in (None, False):
            text = value if isinstance(value, str) else json.dumps(value)
            command += [f"--{name}"] if value is True else [f"--{name}", text]
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
