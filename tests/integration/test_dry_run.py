"""``--dry-run``: a recipe for a large model goes through two real steps on the twin of its architecture."""

import json

import pytest
import yaml
from test_resume import write_data

from balanced_thinking.cli.main import main

RECIPE = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 32,
    "learning_rate": 5e-5,
    "dtype": "bfloat16",
    "load_in_4bit": True,
    "use_peft": True,
    "lora_r": 8,
    "lora_target_modules": ["q_proj", "v_proj"],
    "freeze_vision_tower": True,
    "activation_checkpointing": True,
    "attn_implementation": "flash_attention_2",
    "optim": "paged_adamw_8bit",
    "save_steps": 200,
    "eval_fraction": 0.1,
}


def recipe(folder, **fields):
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **fields, "output_dir": str(folder / "run")}))
    return str(path)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BALANCED_THINKING_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("Qwen/Qwen2.5-VL-3B-Instruct", "qwen2_5_vl"),
        ("llava-hf/llava-v1.6-mistral-7b-hf", "llava_next"),
        ("google/gemma-3-4b-it", "gemma3"),
        ("smollm2", "idefics3"),
    ],
)
def test_two_real_steps_and_what_was_changed_for_them(tmp_path, model, family, capsys):
    data = write_data(tmp_path / "data")
    path = recipe(tmp_path, model_name_or_path=model, dataset=str(data), max_length=8192)
    assert main(["sft", "--config", path, "--dry-run"]) == 0
    told = capsys.readouterr()
    printed = told.out
    assert "step 2/2  loss" in told.err
    assert f"2 steps went through on the twin of {family} ({model} was not loaded)" in printed
    for change in ("load_in_4bit False", "attn_implementation sdpa", "optim adamw_torch", "max_steps 2", "limit 16"):
        assert change in printed
    assert "max_length 8192 was NOT tried" in printed
    assert "dataset icons" not in printed
    assert not (tmp_path / "run").exists()


def test_grpo_and_data_that_are_not_here(tmp_path, capsys):
    fields = {"model_name_or_path": "Qwen/Qwen3-VL-4B-Instruct", "dataset": "owner/prompts", "num_generations": 4}
    without = {"eval_fraction": 0.0, "max_completion_length": 2048, "per_device_train_batch_size": 8}
    assert main(["grpo", "--config", recipe(tmp_path, **fields, **without), "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert "on the twin of qwen3_vl" in printed
    assert "max_completion_length 16" in printed
    assert "max_length" not in printed.replace("max_completion_length", "")
    assert "dataset icons" in printed


def test_a_fault_of_the_recipe_or_its_data_is_found(tmp_path, capsys):
    model = {"model_name_or_path": "google/gemma-3-4b-it"}
    (tmp_path / "bad.jsonl").write_text(json.dumps({"prompt": "Q?", "completion": "no tags"}) + "\n")
    for fields, message in (
        ({**model, "dataset": str(tmp_path / "bad.jsonl")}, "the response has no <answer>"),
        ({**model, "dataset": "icons", "scale_preset": "half"}, "half"),
        ({"model_name_or_path": "gpt2", "dataset": "icons"}, "is of no family that has a twin"),
        ({"dataset": "icons"}, "no model given"),
    ):
        assert main(["sft", "--config", recipe(tmp_path, **fields), "--dry-run"]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("balanced: ")]
        assert len(lines) == 1
        assert message in lines[0]
