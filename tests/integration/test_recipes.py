"""Every recipe is read, and goes through two real steps on the twin of its model."""

from pathlib import Path

import pytest
import yaml
from test_resume import write_data

import balanced_thinking
from balanced_thinking.cli.main import main

RECIPES = Path(balanced_thinking.__file__).parents[2] / "recipes"
FILES = sorted(RECIPES.glob("*.yaml"))


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BALANCED_THINKING_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_two_steps_on_the_twin(file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    verb = "grpo" if "-grpo-" in file.stem else "sft"
    data = write_data(tmp_path / "data")  # quicker than the embedded set, which stands in for data that are not here
    assert main([verb, "--config", str(file), "--dataset", str(data), "--dry-run"]) == 0
    told = capsys.readouterr()
    assert "2 steps went through on the twin of" in told.out
    assert "step 2/2" in told.err


def test_the_head_of_a_recipe_says_what_to_expect_and_where_it_comes_from():
    assert len(FILES) == 12
    for file in FILES:
        text = file.read_text()
        for word in ("Memory", "Hours, expected", "Sources: ", "Nobody has run this on a GPU yet", "--dry-run"):
            assert word in text, file.name
        fields = yaml.safe_load(text)
        assert fields["dtype"] == "bfloat16"
        assert fields["freeze_vision_tower"] is True
        assert fields["activation_checkpointing"] is True
        batch = fields["per_device_train_batch_size"] * fields["gradient_accumulation_steps"]
        if "-sft-" in file.stem:
            assert batch * (8 if "8gpu" in file.stem else 1) == 32


@pytest.mark.parametrize("name", ["fsdp2", "zero3"])
def test_accelerate_reads_its_files(name):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(RECIPES / "accelerate" / f"{name}.yaml"))
    assert config.num_processes == 8
    assert config.mixed_precision == "bf16"
