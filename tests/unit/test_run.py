"""``training.run``: what a run says before anything is loaded."""

from types import SimpleNamespace
from typing import ClassVar

import pytest

from balanced_thinking.errors import ConfigError
from balanced_thinking.training import run
from balanced_thinking.training.dataset import DataArguments
from balanced_thinking.training.grpo import GRPOArguments


def test_settings_of_a_start_are_those_of_its_run(tmp_path):
    """Of a checkpoint or adapter inside a run folder too; an explicit value is the caller's affair."""
    (tmp_path / "adapter").mkdir()
    assert run.started_with(str(tmp_path / "adapter")) == run.started_with("some/hub-id") == {}
    (tmp_path / "run.json").write_text('{"config": {"system_prompt": "Be brief."}}')
    for place in (tmp_path, tmp_path / "adapter", tmp_path / "checkpoint-3"):
        assert run.started_with(str(place)) == {"system_prompt": "Be brief."}
    assert run.started_with(str(tmp_path / "else")) == {}
    (tmp_path / "run.json").write_text("[]")
    assert run.started_with(str(tmp_path)) == {}


class Gemma:
    images_kwargs: ClassVar[dict] = {"do_pan_and_scan": None}

    def __init__(self, saved):
        self.image_processor = SimpleNamespace(do_pan_and_scan=saved)


@pytest.mark.parametrize(
    ("asked", "saved", "remedy"),
    [(True, None, "leave pan_and_scan out"), (False, True, "start from a model trained without")],
)
def test_grpo_of_crops_says_what_to_do(tmp_path, monkeypatch, asked, saved, remedy):
    """It told users who had typed the option to take another model."""
    monkeypatch.setattr(run, "load_processor", lambda name, **options: Gemma(saved))
    model = SimpleNamespace(model_name_or_path="m", model_revision=None, attn_implementation=None, dtype=None)
    config = SimpleNamespace(output_dir=str(tmp_path), trust_remote_code=False, model_init_kwargs=None)
    data = DataArguments(dataset=["x"], pan_and_scan=asked)
    with pytest.raises(ConfigError, match=f"cannot assign to their prompts; {remedy}"):
        run.make_grpo_trainer([], None, GRPOArguments(), config, model, data=data)
