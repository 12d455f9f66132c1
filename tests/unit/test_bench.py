"""The loss benchmark on a tiny shape: that it measures what it says. No test looks at a time."""

import json

import pytest
import torch
from PIL import Image

from balanced_thinking.cli.main import main
from balanced_thinking.compare import bench, timing
from balanced_thinking.compare.bench import LossBenchOptions, bench_loss, format_table
from balanced_thinking.demo.presets.twins import build_twin
from balanced_thinking.errors import ConfigError

TINY = LossBenchOptions(rows=40, dim=16, vocab=300, pairs=3, warmup=1, memory=False, threads=1)


@pytest.fixture(scope="module")
def result() -> dict:
    return bench_loss(TINY, progress=False)


def test_every_arm_computes_the_same_loss_and_gradients(result: dict) -> None:
    assert list(result["results"]) == ["float32", "bfloat16"]
    for dtype, tolerance in (("float32", 1e-5), ("bfloat16", 2e-2)):
        arms = result["results"][dtype]["arms"]
        assert set(arms) == {"ours", "naive", "gather", "trl"} - set(result["unavailable"])
        for values in arms.values():
            assert max(values["errors"].values()) < tolerance


def test_result_is_json_and_ratios_are_ordered(result: dict) -> None:
    assert json.loads(json.dumps(result))["options"]["vocab"] == 300
    for ratio in result["results"]["float32"]["ratios"].values():
        assert ratio["wall"]["p20"] <= ratio["wall"]["median"] <= ratio["wall"]["p80"]
        assert 0 <= ratio["cpu"]["wins"] <= 1


def test_table_shows_every_arm_with_goal_threads_and_load(result: dict) -> None:
    table = format_table(result)
    for words in ("vocab 300, dim 16, rows 40, 20% trained", "threads 1", "load average", "float32", "bfloat16"):
        assert words in table
    for arm in result["results"]["float32"]["arms"]:
        assert table.count(f"│ {arm} ") == 2
    assert "n/a" in table  # memory was not measured


def test_goals_hold_for_the_default_shape_only(result: dict) -> None:
    assert bench._goals(LossBenchOptions(threads=2, pairs=3)) == {"naive": 0.5, "gather": 1.1}
    assert bench._goals(LossBenchOptions(vocab=300)) == {}
    assert "met" not in format_table(result)
    seconds = [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]
    ratios = timing.ratios(seconds, [(2.0, 4.0), (4.0, 4.0), (2.0, 4.0)], goal=0.5)
    assert ratios["wall"] == {"median": 0.5, "p20": 0.5, "p80": 1.5, "wins": 2 / 3}
    assert ratios["cpu"]["median"] == 0.5
    assert ratios["met"]
    assert timing.ratio_cells(ratios)[-1] == "<= 0.5 met"
    assert timing.ratio_cells(ratios | {"met": False})[-1] == "<= 0.5 MISSED"


def test_memory_is_that_of_the_arm() -> None:
    """Naive logits alone are 500 x 8,000 float32 = 16 MB several times over; ours needs 5 rows of them."""
    options = LossBenchOptions(rows=500, dim=8, vocab=8000, trained=0.01, dtypes=("float32",), threads=1)
    naive, ours = (bench._peak_mb(options, "float32", arm) for arm in ("naive", "ours"))
    if naive is None:  # not Linux
        assert ours is None
    else:
        assert naive > 16 > ours > 0


def test_an_arm_that_is_gone_is_named_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    import trl.trainer

    def changed(model: object) -> None:
        raise AssertionError

    monkeypatch.setattr(trl.trainer, "add_fused_lm_head", changed)
    result = bench_loss(LossBenchOptions(rows=8, dim=4, vocab=9, pairs=1, memory=False), progress=False)
    assert list(result["results"]["float32"]["arms"]) == ["ours", "naive", "gather"]
    assert "unexpected keyword argument" in result["unavailable"]["trl"]
    assert "trl: n/a (TypeError" in format_table(result)


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    bench_loss(
        LossBenchOptions(rows=4, dim=4, vocab=9, pairs=1, memory=False, arms=(), threads=before + 1), progress=False
    )
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rows": 0}, "rows must be at least 1, got 0"),
        ({"trained": 0.0}, "trained must be a share"),
        ({"threads": 0}, "threads 1 or more"),
        ({"dtypes": ("int8",)}, "dtypes: unknown 'int8', choose from float32"),
        ({"arms": ("liger",)}, "arms: unknown 'liger', choose from ours"),
    ],
)
def test_bad_options_are_refused(change: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        LossBenchOptions(**change)


def test_reading_is_measured_for_every_arm_at_both_lengths(tmp_path, capsys):
    file = tmp_path / "data.json"
    assert main(["bench", "data", "--rows", "20", "--pairs", "1", "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert set(found["arms"]) == {"check", "train", "list"}
    assert all([run["rows"] for run in runs] == [2, 20] for runs in found["arms"].values())
    assert all(run["cpu_s"] > 0 and run["peak_mb"] > 50 for runs in found["arms"].values() for run in runs)
    assert "medians of 1 rounds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["data", "--rows", "0"], "rows must be at least 10, got 0"),
        (["data", "--pairs", "0"], "pairs must be at least 1, got 0"),
        (["data", "--dim", "8"], "--dim does not apply to bench data; leave it out"),
        (["sft", "--vocab", "8"], "--vocab does not apply to bench sft"),
        (["loss", "--model", "m"], "--model does not apply to bench loss"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, message, capsys):
    assert main(["bench", *options]) == 2
    assert message in capsys.readouterr().err


def test_a_step_is_measured_and_its_model_named_as_it_was_given(tmp_path, capsys, monkeypatch):
    """The folder of a preset is this machine's own, and of no use to a reader."""
    monkeypatch.setattr("balanced_thinking.demo.presets.resolve", lambda name: build_twin("qwen2_5_vl", tmp_path / "m"))
    Image.new("RGB", (28, 28), "red").save(tmp_path / "a.png")
    row = {"question": "Which?", "reasoning": "Red it is.", "answer": "red", "image": "a.png"}
    (tmp_path / "data.jsonl").write_text((json.dumps(row) + "\n") * 4)
    asked = ["--model", "tiny-qwen2_5_vl", "--dataset", str(tmp_path / "data.jsonl"), "--rows", "2", "--pairs", "2"]
    assert main(["bench", "sft", *asked, "--json", str(tmp_path / "sft.json")]) == 0
    found = json.loads((tmp_path / "sft.json").read_text())
    assert found["options"]["model"] == "tiny-qwen2_5_vl"
    assert set(found["arms"]) == {"scale", "token_mean", "trl"}
    assert "one SFT step" in capsys.readouterr().out
