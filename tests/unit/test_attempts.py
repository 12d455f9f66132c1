"""``training.attempts``: which attempts belong together."""

import json
from types import SimpleNamespace

import pytest

from balanced_thinking.errors import CheckpointError, ConfigError
from balanced_thinking.training import attempts
from balanced_thinking.training.attempts import known_run, refuse_other_inputs, resume_point, settings_of
from balanced_thinking.training.dataset import DataArguments


def write(folder, **told):
    (folder / "run.json").write_text(json.dumps(told))


def test_the_number_of_processes_is_a_setting(tmp_path):
    """With twice as many processes a step takes twice the rows."""
    config = SimpleNamespace(to_dict=lambda: {"seed": 1}, world_size=2)
    settings = settings_of(DataArguments(dataset=["x"]), config, DataArguments(), {})
    assert settings["processes"] == 2
    (tmp_path / "checkpoint-1").mkdir()
    write(tmp_path, config={**settings, "processes": 1})
    with pytest.raises(ConfigError, match="processes: 1 there, 2 now"):
        known_run(tmp_path, settings)
    del settings["processes"]
    write(tmp_path, config=settings)  # as before it was written down
    assert known_run(tmp_path, {**settings, "processes": 2})


def test_a_setting_that_is_newer_than_the_run_was_off_in_it(tmp_path):
    (tmp_path / "checkpoint-1").mkdir()
    write(tmp_path, config={"seed": 1})
    assert known_run(tmp_path, {"seed": 1, "scale_tags": "own", "overlong_cache": 0})
    for newer in ({"scale_tags": "next"}, {"overlong_cache": 5}):
        with pytest.raises(ConfigError, match="other settings"):
            known_run(tmp_path, {"seed": 1, **newer})


def test_a_run_that_left_nothing_makes_room(tmp_path, capsys):
    """A setting that fails in the first step could not be corrected in the same folder."""
    write(tmp_path, config={"scale_rewards": "foo"}, finished=False)
    (tmp_path / "clock.json").write_text("{}")
    assert known_run(tmp_path, {"scale_rewards": "group"}) == {}
    assert "left no checkpoint; this one takes its place" in capsys.readouterr().out
    assert not (tmp_path / "clock.json").exists()
    write(tmp_path, config={"scale_rewards": "foo"}, finished=True)
    with pytest.raises(ConfigError, match="other settings"):
        known_run(tmp_path, {"scale_rewards": "group"})


def test_files_of_the_user_are_not_replaced(tmp_path):
    """With the data's own folder as output_dir their README.md and config.json were replaced, exit code 0."""
    beside = ("train.jsonl", "train.log", "stage.json", "recipe.yaml", "sft.log", ".balanced-rows-train-0.arrow")
    for name in beside:
        (tmp_path / name).touch()
    (tmp_path / "runs").mkdir()
    assert known_run(tmp_path / "new", {}) == known_run(tmp_path, {}) == {}
    for name in ("README.md", "config.json", "model-00001-of-00002.safetensors", "tokenizer.json", "metrics.jsonl"):
        (tmp_path / name).touch()
        with pytest.raises(ConfigError, match=rf"is no run folder, but holds {name}, .*; choose another output_dir$"):
            known_run(tmp_path, {})
        (tmp_path / name).unlink()
    write(tmp_path, started="2020")  # of another tool
    with pytest.raises(ConfigError, match=r"run\.json is not that of a run, which would replace it"):
        known_run(tmp_path, {"seed": 1})


def test_a_folder_is_to_be_removed_only_where_nothing_but_runs_would_go(tmp_path):
    write(tmp_path, config={"seed": 1}, finished=True)
    for name in ("README.md", "config.json", "train.log", "stage.json"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=r"output_dir, or remove the folder$"):
        known_run(tmp_path, {"seed": 2})
    with pytest.raises(ConfigError, match=r"choose another output_dir$"):  # it holds the start
        known_run(tmp_path, {"seed": 2, "model_name_or_path": str(tmp_path / "checkpoint-4")})
    (tmp_path / "train.jsonl").touch()
    with pytest.raises(ConfigError, match=r"choose another output_dir$"):
        known_run(tmp_path, {"seed": 2})


@pytest.mark.parametrize(("key", "words"), [("rows", "the rows of its data"), ("weights", "the weights of the model")])
def test_other_data_or_weights_under_the_same_name_are_refused(tmp_path, key, words):
    now = {"rows": "a", "weights": "b"}
    with pytest.raises(ConfigError, match=f"{words}.* changed since it began"):
        refuse_other_inputs(tmp_path, {"inputs": {**now, key: "c"}}, now)
    refuse_other_inputs(tmp_path, {"inputs": now}, now)
    refuse_other_inputs(tmp_path, {}, now)  # of a version that did not write them down
    refuse_other_inputs(tmp_path, {"inputs": now}, {"rows": None, "weights": None})  # a process that read none


def test_the_checkpoint_that_is_asked_for_is_taken(tmp_path, monkeypatch):
    """``resume_from_checkpoint`` was ignored."""
    newest = tmp_path / "checkpoint-4"
    monkeypatch.setattr(attempts, "checkpoint_fault", lambda place: None if place.exists() else "not there")
    monkeypatch.setattr(attempts, "last_checkpoint", lambda folder: (newest, []))
    (tmp_path / "checkpoint-2").mkdir()
    assert resume_point(tmp_path, str(tmp_path / "checkpoint-2")) == (tmp_path / "checkpoint-2", [])
    assert [resume_point(tmp_path, asked) for asked in (None, "true", True, "false")] == [(newest, [])] * 4
    with pytest.raises(CheckpointError, match="checkpoint-3 cannot be resumed from: not there"):
        resume_point(tmp_path, str(tmp_path / "checkpoint-3"))
    monkeypatch.setattr(attempts, "last_checkpoint", lambda folder: (None, ["checkpoint-4 is passed over: torn"]))
    assert resume_point(tmp_path, None)[0] is None
    with pytest.raises(CheckpointError, match="no valid checkpoint to resume from; checkpoint-4 is passed over"):
        resume_point(tmp_path, "true")
