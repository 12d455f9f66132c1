"""What a run folder says of its model: segments, system prompt and options of the chat template."""

import json

import pytest

from balanced_thinking.core.segments import LLAVA_COT, THINK_ANSWER
from balanced_thinking.errors import ConfigError
from balanced_thinking.evaluation.trained import prompting, trained_segments


@pytest.mark.parametrize(
    ("told", "names"),
    [
        ({"config": {"scale_segments": "llava-cot"}}, ["summary", "caption", "reasoning", "conclusion"]),
        ({"config": {"scale_segments": [["so", "[so]", None]]}}, ["so"]),
        ({"config": {"scale_segments": None}}, ["think", "answer"]),
        ({"config": {}}, ["think", "answer"]),
        ([], ["think", "answer"]),
        (None, ["think", "answer"]),
    ],
)
def test_a_run_folder_says_what_its_model_writes(tmp_path, told, names):
    if told is not None:
        (tmp_path / "run.json").write_text(json.dumps(told))
    assert [spec.name for spec in trained_segments(tmp_path)] == names


@pytest.mark.parametrize("inside", ["checkpoint-40", "adapter"])
def test_what_lies_in_a_run_folder_writes_what_the_run_was_trained_to(tmp_path, inside, monkeypatch):
    """It once fell back to think and answer, without a word."""
    (tmp_path / "run" / inside).mkdir(parents=True)
    (tmp_path / "run" / "run.json").write_text(json.dumps({"config": {"scale_segments": "llava-cot"}}))
    assert trained_segments(tmp_path / "run" / inside) == LLAVA_COT
    monkeypatch.chdir(tmp_path / "run" / inside)
    assert trained_segments(".") == LLAVA_COT
    (tmp_path / "run" / "other").mkdir()
    assert trained_segments(tmp_path / "run" / "other") == THINK_ANSWER


def test_segments_that_cannot_be_are_not_passed_over(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"config": {"scale_segments": [["so", "[so]"]]}}))
    with pytest.raises(ConfigError, match=r"run\.json: scale_segments: segments: each entry is \[name"):
        trained_segments(tmp_path)


def run_folder(tmp_path, **config):
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "run.json").write_text(json.dumps({"config": config}))
    return tmp_path


@pytest.mark.parametrize("inside", ["", "checkpoint-3"])
def test_a_model_is_prompted_as_it_was_trained_unless_asked_otherwise(tmp_path, inside):
    """System prompt and template options of the run were once forgotten."""
    kwargs = {"enable_thinking": False}
    folder = run_folder(tmp_path, system_prompt="Look.", chat_template_kwargs=kwargs) / inside
    said = []
    assert prompting(folder, None, None, say=said.append) == ("Look.", kwargs)
    assert len(said) == 2
    assert all("run.json" in line and "\n" not in line for line in said)
    said.clear()
    assert prompting(folder, "", {}, say=said.append) == (None, {})
    assert prompting(folder, "Guess.", {"a": 1}, say=said.append) == ("Guess.", {"a": 1})
    assert said == []


@pytest.mark.parametrize("config", [{}, {"system_prompt": None, "chat_template_kwargs": None}, {"system_prompt": ""}])
def test_a_run_without_a_system_prompt_adds_nothing(tmp_path, config):
    silent = {"say": lambda line: pytest.fail(line)}
    assert prompting(run_folder(tmp_path, **config), None, None, **silent) == (None, {})
    assert prompting(("model", "processor"), None, None, **silent) == (None, {})
    assert prompting("some/hub-id", None, None, **silent) == (None, {})
