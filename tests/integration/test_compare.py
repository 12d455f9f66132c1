"""A whole comparison on a tiny model: stages as processes, resumed after a kill, table, report and plots."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from test_resume import write_data

from balanced_thinking.cli.main import main
from balanced_thinking.compare.comparison import ARMS, check_benchmarks, read_comparison
from balanced_thinking.compare.display import Running
from balanced_thinking.compare.plan import plan_stages
from balanced_thinking.compare.run import (
    _command,
    _note_company,
    _startable,
    _timing,
    _without_dependants,
    die_with_parent,
    gather,
    missing,
)
from balanced_thinking.compare.statistics import cells
from balanced_thinking.errors import ConfigError


def settings(model: Path, data: Path, **changes):
    return {
        "name": "a small comparison",
        "models": [str(model)],
        "arms": ["base", "sft", "scale", "sft+grpo"],
        "benchmarks": [str(data)],
        "limit": 6,
        "max_new_tokens": 8,
        "jobs": 2,
        "recipe": {
            "dataset": str(data),
            "max_steps": 6,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "save_steps": 2,
            "save_total_limit": 1,
            "bf16": False,
        },
        "grpo": {
            "dataset": str(data),
            "max_steps": 4,
            "per_device_train_batch_size": 8,
            "num_generations": 4,
            "max_completion_length": 8,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "save_steps": 2,
            "save_total_limit": 1,
            "bf16": False,
        },
        **changes,
    }


def write(folder: Path, values: dict) -> Path:
    file = folder / "comparison.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return file


def start(folder: Path, values: dict, output: Path, *more: str) -> subprocess.Popen:
    file = write(folder, values)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.Popen(
        [sys.executable, "-m", "balanced_thinking.cli.main", "compare", str(file), "--output_dir", str(output), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


@pytest.fixture(scope="module")
def finished(tiny_folder, tmp_path_factory):
    """A comparison whose parent was killed while it trained, started again and left to finish."""
    folder = tmp_path_factory.mktemp("compare")
    data = write_data(folder / "data", 16)
    values = settings(tiny_folder, data)
    output = folder / "out"
    process = start(folder, values, output)
    trained = output / tiny_folder.name / "sft" / "seed-0" / "metrics.jsonl"
    deadline = time.time() + 200
    while not trained.exists() and process.poll() is None and time.time() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    text, _ = process.communicate()
    assert trained.exists(), text
    text, _ = (again := start(folder, values, output)).communicate(timeout=400)
    assert again.returncode == 0, text
    return read_comparison(values, source="test"), output, text


def test_every_arm_has_a_row_with_what_the_report_needs(finished):
    comparison, output, _ = finished
    rows = [json.loads(line) for line in (output / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["arm"] for row in rows] == ["base", "sft", "scale", "sft+grpo"]
    assert rows == gather(comparison, output)
    for row in rows:
        assert row["n"] == 6
        assert (row["malformed"] is None) == (row["arm"] == "base")
    assert [[(stage["name"], stage["steps"]) for stage in row["stages"]] for row in rows] == [
        [], [("sft", 6)], [("sft", 6)], [("sft", 6), ("grpo", 4)],
    ]  # fmt: skip
    assert rows[3]["stages"][0] == rows[1]["stages"][0], "the SFT before GRPO is that of the arm sft"
    assert rows[1]["stages"][0]["tokens"] == rows[2]["stages"][0]["tokens"]


def test_both_arms_saw_the_same_rows_in_the_same_order(finished):
    _, output, _ = finished
    first, second = (
        [
            json.loads(line)
            for line in next(output.glob(f"*/{arm}/seed-0/metrics.jsonl")).read_text(encoding="utf-8").splitlines()
        ]
        for arm in ("sft", "scale")
    )
    for a, b in zip(first, second, strict=True):
        assert a.get("num_input_tokens_seen") == b.get("num_input_tokens_seen")
        assert a.get("scale/tokens_think") == b.get("scale/tokens_think")
        assert a.get("learning_rate") == b.get("learning_rate")
    # The first step starts from the same weights: its nll is the same, its loss is not.
    assert first[0]["scale/nll_think"] == pytest.approx(second[0]["scale/nll_think"], rel=1e-5)
    assert first[0]["loss"] != pytest.approx(second[0]["loss"], rel=1e-3)


def test_nothing_is_run_twice(finished, tiny_folder, tmp_path, capsys):
    comparison, output, _ = finished
    before = {path: path.stat().st_mtime_ns for path in output.rglob("run.json")}
    values = settings(tiny_folder, Path(comparison.benchmarks[0]))
    text, _ = (again := start(tmp_path, values, output)).communicate(timeout=100)
    assert again.returncode == 0, text
    assert "7 of 7 stages are complete already" in text
    assert before == {path: path.stat().st_mtime_ns for path in output.rglob("run.json")}
    for changes, words in [
        ({"limit": 5}, "other settings (limit)"),
        ({"grpo": {**values["grpo"], "beta": 0.1}}, "other settings (grpo.beta)"),
        (
            {"recipe": {**values["recipe"], "learnin_rate": 1}},
            "'learnin_rate'; did you mean learning_rate?",
        ),
        ({"models": ["./nowhere"]}, "there is no model folder nowhere"),
    ]:
        assert main(["compare", str(write(tmp_path, {**values, **changes})), "--output_dir", str(output)]) == 2
        assert words in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in output.rglob("run.json")}


def test_the_report_has_table_plots_and_examples(finished):
    """Through `balanced report`, from the folder alone."""
    _, output, _ = finished
    (output / "report.md").unlink()
    assert main(["report", str(output)]) == 0
    text = (output / "report.md").read_text(encoding="utf-8")
    for words in ("| base |", "| sft |", "| scale |", "not resolved", "## Examples", "arXiv:2603.18656", "n/a"):
        assert words in text
    # By which clock depends on what else this machine does.
    assert re.search(r"time\(sft\+grpo\) / (CPU )?time\(scale\) = ", text)
    for name in ("nll", "weights", "accuracy", "reward", "trade-off"):
        assert (output / "plots" / f"{name}.png").stat().st_size > 5000
        assert f"plots/{name}.png" in text
    assert any((output / "examples").iterdir())
    page = (output / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 5
    assert page.count("<article>") == text.count("Right answer:") > 0
    assert not re.search(r"(src|href)=\"(?!data:|#)", page), "the page needs nothing beside it"


def test_a_folder_without_a_comparison_is_one_line(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no comparison" in capsys.readouterr().err
    (tmp_path / "comparison.json").write_text("{")
    assert main(["report", str(tmp_path)]) == 2


def test_differences_are_taken_to_sft(finished):
    comparison, output, _ = finished
    (arms,) = cells(gather(comparison, output)).values()
    assert arms["sft"].difference is None
    for arm in ("base", "scale"):
        assert arms[arm].difference.difference == pytest.approx(arms[arm].accuracy - arms["sft"].accuracy)


def test_a_plan_is_checked(tiny_folder):
    good = settings(tiny_folder, Path(__file__))
    plan = plan_stages(read_comparison({**good, "seeds": [0, 1]}, source="x"), Path("out"))
    assert len(plan) == 1 + 2 * 6
    assert sum(stage.trains for stage in plan) == 2 * 3
    for changes, words in [
        ({"arms": ["sft", "scael"]}, "did you mean scale"),
        ({"armz": []}, "did you mean arms"),
        ({"seeds": []}, "seeds must be a list"),
        ({"limit": 0}, "limit"),
        ({"recipe": {}}, "dataset"),
        ({"arms": ["sft+grpo"], "grpo": {}}, "grpo must be a mapping with at least a dataset"),
        ({"launch": "--num_processes 8"}, "launch must be a list"),
        ({"arms": ["sft", "sft"]}, "twice"),
        ({"arms": "sft"}, "arms must be a list of texts"),
        ({"arms": [["sft"]]}, "arms must be a list of texts"),
        ({"models": ["a/model", "b/model"]}, "'model' stands for two of them"),
        ({"models": [".."]}, "cannot be used"),
        ({"models": ["plots"]}, "cannot be used"),
        ({"benchmarks": ["a/test.jsonl", "b/test.jsonl"]}, "'test' stands for two of them"),
        ({"benchmarks": ["icons", "icons:test"]}, "'icons' stands for two"),
        ({"seeds": [True]}, "seeds must be a list of whole numbers"),
        ({"seeds": ["x"]}, "seeds must be a list of whole numbers"),
        ({"blank_images": "no"}, "blank_images must be true or false"),
        ({"name": 2024}, "name must be a text"),
        ({"recipe": None}, "recipe is missing"),
        ({"grpo": {"dataset": "icons", "model_name_or_path": "x"}}, "must not hold model_name_or_path"),
        ({"recipe": {"dataset": "icons", "seed": 3}}, "must not hold seed"),
        ({"evaluate": ["vllm"]}, "evaluate must be a mapping"),
        ({"evaluate": {"backnd": "vllm"}}, "evaluate: unknown key 'backnd'; did you mean backend"),
        ({"evaluate": {"backend_options": {"dtype": "half"}}}, "evaluate: backend_options are for backend 'vllm'"),
        ({"evaluate": {"backend": "vlm"}}, "evaluate: unknown backend 'vlm'; use one of transformers, vllm"),
        ({"evaluate": {"dtype": "int3"}}, "evaluate: unknown dtype 'int3'"),
        ({"evaluate": {"backend": "vllm", "backend_options": 2}}, "evaluate: backend_options must be a mapping, not 2"),
    ]:
        with pytest.raises(ConfigError, match=words):
            read_comparison({**good, **changes}, source="x")
    for benchmark, words in [
        ("icnos", "did you mean icons"),
        ("icons:vall", "no split 'vall'; did you mean val"),
        ("icons-unseen:train", "no split 'train'"),
    ]:
        with pytest.raises(ConfigError, match=words):
            check_benchmarks(read_comparison({**good, "benchmarks": [benchmark]}, source="x"))
    assert read_comparison({**good, "launch": None, "seeds": None}, source="x").seeds == (0,)


def test_what_a_stage_would_refuse_is_refused_before_the_first(tiny_folder, tmp_path, capsys):
    """Values of recipes, names of data, models, rewards and presets: not after hours of SFT."""
    good = settings(tiny_folder, write_data(tmp_path / "data", 4))
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"prompt": "How many?"}\n')
    for changes, words in [
        ({"recipe": {**good["recipe"], "scale_preset": "fulll"}}, "arm sft: scale_preset='fulll' is unknown"),
        ({"recipe": {**good["recipe"], "learning_rate": "fast"}}, "learning_rate"),
        ({"grpo": {**good["grpo"], "reward_funcs": ["acuracy"]}}, "arm sft+grpo: reward 'acuracy' is unknown"),
        ({"grpo": {**good["grpo"], "grpo_preset": "grop"}}, "grpo_preset 'grop' is unknown"),
        ({"grpo": {**good["grpo"], "num_generations": 3}}, "divisible"),
        ({"grpo": {**good["grpo"], "num_iterations": 3, "save_steps": 2}}, "multiple of 3"),
        ({"benchmarks": ["icnos"]}, "did you mean icons"),
        ({"benchmarks": [str(broken)]}, "broken.jsonl, record line 1, field completion: neither completion nor answer"),
        ({"recipe": {**good["recipe"], "dataset": "icns"}}, "arm sft: no benchmark and no data file is called 'icns'"),
        (
            {"recipe": {**good["recipe"], "dataset": "data/trian.jsonl"}},
            "data/trian.jsonl: no such file; check the path",
        ),
        ({"evaluate": {"max_new_tokens": 8}}, "unknown key 'max_new_tokens'; it stands beside evaluate, not in it"),
        ({"recipe": {**good["recipe"], "max_steps": 0}}, "arm sft: max_steps must be at least 1, not 0"),
        ({"grpo": {**good["grpo"], "max_steps": 0}}, "arm sft+grpo: max_steps must be at least 1, not 0"),
        ({"models": ["tiny-qwen2_5vl"]}, "there is no model 'tiny-qwen2_5vl'; did you mean tiny-qwen2_5_vl?"),
        ({"launch": ["--num_process", "8"]}, "launch: unknown argument --num_process"),
    ]:
        place = tmp_path / "out"
        assert main(["compare", str(write(tmp_path, {**good, **changes})), "--output_dir", str(place)]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert len(said.strip().splitlines()) == 1
        assert not place.exists()


def test_grpo_reads_prompts_as_sft_does(tiny_folder, tmp_path):
    good = settings(tiny_folder, Path(__file__))
    values = {**good, "recipe": {**good["recipe"], "system_prompt": "Look."}}
    grpo = next(stage for stage in plan_stages(read_comparison(values, source="x"), tmp_path) if stage.kind == "grpo")
    assert grpo.recipe["system_prompt"] == "Look."


def test_more_arms_and_seeds_are_added_to_what_is_there(finished, tiny_folder, tmp_path):
    """A second call names other seeds and fewer arms: the first one's rows stay, in file and report."""
    comparison, output, _ = finished
    before = [json.loads(line) for line in (output / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    place = tmp_path / "copy"
    shutil.copytree(output, place)
    values = settings(tiny_folder, Path(comparison.benchmarks[0]))
    text, _ = (process := start(tmp_path, values, place, "--arms", "scale", "--seeds", "1")).communicate(timeout=200)
    assert process.returncode == 0, text
    after = [json.loads(line) for line in (place / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row for row in after if row["seed"] == 0] == before
    assert [(row["arm"], row["seed"]) for row in after if row["seed"]] == [("scale", 1)]
    assert "| sft+grpo |" in (place / "report.md").read_text(encoding="utf-8")


def test_every_arm_makes_a_valid_recipe(tmp_path):
    from balanced_thinking.training.sft_config import ScaleSFTConfig

    for name, arm in ARMS.items():
        if arm.after is not None:
            assert ARMS[arm.after].recipe is not None
            continue
        recipe = {key: value for key, value in (arm.recipe or {}).items() if key != "without_think"}
        assert ScaleSFTConfig(str(tmp_path), **recipe).loss in ("scale", "token_mean"), name


def test_results_of_unknown_settings_are_left_alone(finished, tiny_folder, tmp_path, capsys):
    """Without comparison.json nothing tells whether the rows belong to this comparison."""
    comparison, output, _ = finished
    shutil.copyfile(output / "results.jsonl", tmp_path / "results.jsonl")
    before = (tmp_path / "results.jsonl").read_bytes()
    values = settings(tiny_folder, Path(comparison.benchmarks[0]))
    assert main(["compare", str(write(tmp_path, values)), "--output_dir", str(tmp_path)]) == 2
    assert "comparison.json, which tells how it was made, is missing" in capsys.readouterr().err
    assert (tmp_path / "results.jsonl").read_bytes() == before


def test_rows_that_are_not_planned_stay(finished, tmp_path):
    comparison, output, _ = finished
    shutil.copyfile(output / "results.jsonl", tmp_path / "results.jsonl")
    fewer = dataclasses.replace(comparison, arms=("base", "sft"))
    key = lambda row: (row["arm"], row["seed"], row["benchmark"])  # noqa: E731
    assert sorted(gather(fewer, tmp_path), key=key) == sorted(gather(comparison, output), key=key)


def test_evaluations_get_segments_prompt_and_reading(tiny_folder, tmp_path):
    good = settings(tiny_folder, Path("test.csv"))
    recipe = {**good["recipe"], "system_prompt": "Look.", "scale_segments": [["so", "<so>", None]]}
    evaluate = {"columns": {"question": "Frage"}, "allow_outside": True, "batch_size": 4, "backend": "vllm"}
    evaluate |= {"backend_options": {"max_model_len": 4096}, "dtype": "bfloat16"}
    comparison = read_comparison({**good, "recipe": recipe, "evaluate": evaluate}, source="x")
    stage = next(stage for stage in plan_stages(comparison, tmp_path) if not stage.trains)
    command = " ".join(_command(stage, comparison, "m"))
    for words in (
        "--system_prompt Look.", '--scale_segments [["so", "<so>", null]]', '--columns {"question": "Frage"}',
        "--allow_outside --batch_size 4", "--backend vllm",
        '--backend_options {"max_model_len": 4096} --dtype bfloat16',
    ):  # fmt: skip
        assert words in command


def test_arms_are_asked_alike_whatever_their_run_folders_say(tiny_folder, tmp_path):
    """An evaluation takes what it is not told from the run folder, which would be another prompt for each arm."""
    comparison = read_comparison(settings(tiny_folder, Path("test.csv")), source="x")
    stage = next(stage for stage in plan_stages(comparison, tmp_path) if not stage.trains)
    command = _command(stage, comparison, "m")
    assert command[command.index("--system_prompt") + 1] == ""
    assert command[command.index("--chat_template_kwargs") + 1] == "{}"


def test_a_training_beside_other_work_is_not_called_alone(finished, tmp_path):
    """Who else keeps the machine busy is measured; a busy loop beside a stage must show."""
    comparison, _, _ = finished
    stage = next(stage for stage in plan_stages(comparison, tmp_path) if stage.trains)
    stage.folder.mkdir(parents=True)
    (stage.folder / "stage.json").write_text('{"alone": true, "threads": 1}')
    assert _timing(stage)["alone"]
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        item = Running(stage, process, tmp_path / "log")
        time.sleep(1.5)
        _note_company(item)
    finally:
        process.kill()
        process.wait()
    assert json.loads((stage.folder / "stage.json").read_text())["beside"] > 0.3
    assert not _timing(stage)["alone"]


def test_results_alone_are_enough_to_go_on(finished, tiny_folder, tmp_path):
    """Of a committed folder only small files are there: nothing is made again, and what is new needs its models."""
    comparison, output, _ = finished
    for name in ("results.jsonl", "comparison.json"):
        shutil.copyfile(output / name, tmp_path / name)
    assert missing(comparison, tmp_path) == []
    assert gather(comparison, tmp_path) == gather(comparison, output)
    more = dataclasses.replace(comparison, seeds=(0, 1), arms=("sft", "sft+grpo"))
    assert [(stage.arm, stage.kind, stage.seed) for stage in missing(more, tmp_path)] == [
        ("sft", "sft", 1), ("sft", "evaluate", 1), ("sft+grpo", "grpo", 1), ("sft+grpo", "evaluate", 1),
    ]  # fmt: skip
    blank = dataclasses.replace(comparison, arms=("sft+grpo",), blank_images=True)
    assert [stage.kind for stage in missing(blank, tmp_path)] == ["sft", "grpo", "evaluate"]


def test_a_failed_arm_takes_only_what_needs_it(tiny_folder, tmp_path):
    comparison = read_comparison(settings(tiny_folder, Path(__file__)), source="x")
    stages = plan_stages(comparison, tmp_path)
    failed = next(stage for stage in stages if stage.arm == "sft" and stage.trains)
    left = _without_dependants([stage for stage in stages if stage != failed], failed)
    assert {stage.arm for stage in left} == {"base", "scale"}
    evaluation = next(stage for stage in stages if stage.arm == "sft" and not stage.trains)
    assert len(_without_dependants(stages, evaluation)) == len(stages)


def test_a_comparison_ends_with_its_parent_only_on_linux(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    die_with_parent()


def test_timed_trainings_run_alone(tiny_folder, tmp_path):
    """With GRPO among the arms the seconds of trainings are compared: no training beside anything else."""
    with_grpo = read_comparison(settings(tiny_folder, Path(__file__)), source="x")
    without = read_comparison({**settings(tiny_folder, Path(__file__)), "arms": ["base", "sft", "scale"]}, source="x")
    base, sft, _, scale, *_ = plan_stages(with_grpo, tmp_path)
    assert (base.kind, sft.kind, scale.kind) == ("evaluate", "sft", "sft")
    assert _startable([base, sft, scale], [], with_grpo) == [base]
    assert _startable([sft, scale], [], with_grpo) == [sft]
    assert _startable([scale], [sft], with_grpo) == []
    assert _startable([sft, scale], [base], with_grpo) == []
    assert _startable([base, sft, scale], [], without) == [base, sft]


def test_a_dry_run_prints_plan_and_times(finished, tiny_folder, tmp_path):
    comparison, _, _ = finished
    values = {**settings(tiny_folder, Path(comparison.benchmarks[0])), "arms": ["sft", "sft+grpo"]}
    text, _ = (process := start(tmp_path, values, tmp_path / "out", "--dry-run")).communicate(timeout=200)
    assert process.returncode == 0, text
    for words in ("4 stages to run", "sft seed 0: sft", "minutes", "hours"):
        assert words in text
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_kills_in_every_kind_of_stage_change_nothing(finished, tiny_folder, tmp_path):
    """Killed in SFT, GRPO and evaluation and started again: the same results in all fields but seconds and company."""
    comparison, output, _ = finished
    values = settings(tiny_folder, Path(comparison.benchmarks[0]))
    place = tmp_path / "out"
    arm = place / tiny_folder.name
    for sign in ("sft/seed-0/metrics.jsonl", "sft+grpo/seed-0/metrics.jsonl", "sft+grpo/seed-0/predictions"):
        process = start(tmp_path, values, place)
        while not (arm / sign).exists() and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        text, _ = process.communicate()
        assert (arm / sign).exists(), text
    text, _ = (process := start(tmp_path, values, place)).communicate(timeout=400)
    assert process.returncode == 0, text
    assert without_seconds(place) == without_seconds(output)


def without_seconds(output: Path) -> list[dict]:
    rows = [json.loads(line) for line in (output / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        for stage in row["stages"]:
            del stage["seconds"], stage["cpu_seconds"], stage["threads"]
            stage.pop("alone", None)  # whether other work ran beside it
    return rows
