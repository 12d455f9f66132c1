"""A whole comparison on a tiny model: stages as processes, resumed after a kill, table, report and plots."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from test_resume import write_data

from balanced_thinking.compare.plan import ARMS, plan_stages, read_comparison
from balanced_thinking.compare.report import write_report
from balanced_thinking.compare.run import gather
from balanced_thinking.compare.statistics import cells
from balanced_thinking.errors import ConfigError

PROGRAM = """
import sys, yaml
from pathlib import Path
from balanced_thinking.compare.plan import read_comparison
from balanced_thinking.compare.run import run_comparison
values = yaml.safe_load(Path(sys.argv[1]).read_text())
run_comparison(read_comparison(values, source=sys.argv[1]), Path(sys.argv[2]))
"""


def settings(model: Path, data: Path, **changes):
    return {
        "name": "a small comparison",
        "models": [str(model)],
        "arms": ["base", "sft", "scale"],
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
        **changes,
    }


def start(folder: Path, values: dict, output: Path) -> subprocess.Popen:
    file = folder / "comparison.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(file), str(output)],
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
    process.communicate()
    assert trained.exists()
    text, _ = (again := start(folder, values, output)).communicate(timeout=400)
    assert again.returncode == 0, text
    return read_comparison(values, source="test"), output, text


def test_every_arm_has_a_row_with_what_the_report_needs(finished):
    comparison, output, _ = finished
    rows = [json.loads(line) for line in (output / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["arm"] for row in rows] == ["base", "sft", "scale"]
    assert rows == gather(comparison, output)
    for row in rows:
        assert row["n"] == 6
        assert (row["malformed"] is None) == (row["arm"] == "base")
        assert [stage["steps"] for stage in row["stages"]] == ([] if row["arm"] == "base" else [6])
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


def test_nothing_is_run_twice(finished, tiny_folder, tmp_path):
    comparison, output, _ = finished
    before = {path: path.stat().st_mtime_ns for path in output.rglob("run.json")}
    values = settings(tiny_folder, Path(comparison.benchmarks[0]))
    text, _ = (again := start(tmp_path, values, output)).communicate(timeout=100)
    assert again.returncode == 0, text
    assert "5 of 5 stages are complete already" in text
    assert before == {path: path.stat().st_mtime_ns for path in output.rglob("run.json")}
    text, _ = (other := start(tmp_path, {**values, "limit": 5}, output)).communicate(timeout=100)
    assert other.returncode != 0
    assert "other settings (limit)" in text


def test_the_report_has_table_plots_and_examples(finished):
    comparison, output, _ = finished
    report = write_report(comparison, gather(comparison, output), output).read_text(encoding="utf-8")
    for words in ("| base |", "| sft |", "| scale |", "not resolved", "## Examples", "arXiv:2603.18656", "n/a"):
        assert words in report
    for name in ("nll", "weights", "accuracy"):
        assert (output / "plots" / f"{name}.png").stat().st_size > 5000
        assert f"plots/{name}.png" in report
    assert any((output / "examples").iterdir())


def test_differences_are_taken_to_sft(finished):
    comparison, output, _ = finished
    (arms,) = cells(gather(comparison, output)).values()
    assert arms["sft"].difference is None
    for arm in ("base", "scale"):
        assert arms[arm].difference.difference == pytest.approx(arms[arm].accuracy - arms["sft"].accuracy)


def test_a_plan_is_checked(tiny_folder):
    good = settings(tiny_folder, Path(__file__))
    assert len(plan_stages(read_comparison({**good, "seeds": [0, 1]}, source="x"), Path("out"))) == 9
    for changes, words in [
        ({"arms": ["sft", "scael"]}, "did you mean scale"),
        ({"armz": []}, "did you mean arms"),
        ({"benchmarks": ["icnos"]}, "did you mean icons"),
        ({"seeds": []}, "seeds must be a list"),
        ({"limit": 0}, "limit"),
        ({"recipe": {}}, "dataset"),
        ({"arms": ["sft", "sft"]}, "twice"),
    ]:
        with pytest.raises(ConfigError, match=words):
            read_comparison({**good, **changes}, source="x")


def test_every_arm_makes_a_valid_recipe(tmp_path):
    from balanced_thinking.training.sft_config import ScaleSFTConfig

    for name, arm in ARMS.items():
        recipe = {key: value for key, value in (arm.recipe or {}).items() if key != "without_think"}
        assert ScaleSFTConfig(str(tmp_path), **recipe).loss in ("scale", "token_mean"), name
