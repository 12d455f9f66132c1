"""``cli.parsing``: what is typed wrongly is named with the option, the file or the line that was meant."""

from dataclasses import dataclass

import pytest

from balanced_thinking.cli.parsing import OneLineParser, parse_recipe, read_yaml
from balanced_thinking.errors import ConfigError

# 16 completions a prompt; batches of evaluation, which nobody sets, must hold whole groups too.
WHOLE_GROUPS = {"per_device_train_batch_size": 16, "bf16": False}


@dataclass
class Fields:
    model_name_or_path: str | None = None
    hub_model_id: str | None = None
    learning_rate: float = 1e-5
    lora_r: int = 16
    num_train_epochs: float = 3.0
    dataset: str = ""
    output_dir: str = ""
    max_steps: int = -1
    max_length: int | None = 1024


def recipe(path, text):
    path.write_text(text, encoding="utf-8")
    return ["--config", str(path)]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--model", "--model_name_or_path"),  # was --hub_model_id
        ("--lr=3", "--learning_rate"),  # was --lora_r
        ("--epochs", "--num_train_epochs"),
        ("--train-file", "--dataset"),
        ("--output", "--output_dir"),
        ("--steps", "--max_steps"),
        ("--max_step", "--max_steps"),  # no slip of the table: the closest match
        ("--batch_size", "see balanced x --help"),  # its meaning is no field here
    ],
)
def test_a_slip_names_what_is_meant(tmp_path, typed, meant):
    with pytest.raises(ConfigError, match=f"unknown option {typed}; (did you mean )?{meant}"):
        parse_recipe((Fields,), [typed, "1"], prog="balanced x")
    if "batch" not in typed:
        key = typed.removeprefix("--").split("=")[0].replace("-", "_")
        with pytest.raises(ConfigError, match=f"'{key}'; did you mean {meant.removeprefix('--')}"):
            parse_recipe((Fields,), recipe(tmp_path / "r.yaml", f"{key}: 1"), prog="balanced x")


def test_a_slip_wins_over_the_option_that_is_missing_for_it():
    """It said that --model is required, beside --model_name_or_path."""
    parser = OneLineParser(prog="balanced evaluate")
    parser.add_argument("--model", required=True)
    parser.add_argument("--batch_size")
    with pytest.raises(ConfigError, match="unknown option --model_name_or_path; did you mean --model"):
        parser.parse_all(["--model_name_or_path", "m"])
    assert parser.parse_all(["--model", "m", "--batch_size", "4"]).batch_size == "4"


def test_a_key_given_twice_is_refused(tmp_path):
    for text, line, key in (
        ("max_steps: 1\nlearning_rate: 1.0\nmax_steps: 2\n", 3, "max_steps"),
        ("recipe:\n  dataset: a\n  dataset: b\n", 3, "dataset"),
        ("recipe: {dataset: a, dataset: b}\n", 1, "dataset"),
    ):
        (tmp_path / "r.yaml").write_text(text)
        with pytest.raises(ConfigError, match=rf"r\.yaml, line {line}: the key '{key}' is given twice"):
            read_yaml(tmp_path / "r.yaml")


def test_a_merged_key_may_be_set_anew(tmp_path):
    text = "base: &b\n  seed: 1\n  loss: scale\nmine: &m\n  <<: *b\n  seed: 2\nlast: {<<: *m, seed: 3}\n"
    (tmp_path / "r.yaml").write_text(text)
    assert read_yaml(tmp_path / "r.yaml")["last"] == {"seed": 3, "loss": "scale"}


def test_a_value_that_does_not_fit_names_its_file(tmp_path):
    arguments = recipe(tmp_path / "r.yaml", "max_steps: two\nlora_r: 8\n")
    with pytest.raises(ConfigError, match=r"^.*r\.yaml: argument --max_steps/--max-steps: invalid int value: 'two'"):
        parse_recipe((Fields,), arguments, prog="balanced x")
    with pytest.raises(ConfigError, match=r"^argument --lora_r/--lora-r: invalid int value: 'three'"):
        parse_recipe((Fields,), [*arguments, "--max_steps", "3", "--lora_r", "three"], prog="balanced x")


def test_defaults_of_a_verb_stand_below_everything(tmp_path):
    def length(arguments):
        return parse_recipe((Fields,), arguments, prog="x", defaults={"max_length": None})[0].max_length

    assert length([]) is None
    assert length(recipe(tmp_path / "r.yaml", "max_length: 8")) == 8
    assert length(["--max_length", "9"]) == 9


@pytest.mark.parametrize(
    ("fields", "strategy"),
    [
        ({}, "no"),
        ({"eval_fraction": 0.1}, "epoch"),
        ({"eval_dataset": "icons"}, "epoch"),
        ({"eval_fraction": 0.1, "eval_strategy": "no"}, "no"),
        ({"eval_fraction": 0.1, "eval_strategy": False}, "no"),  # what YAML makes of an unquoted no
        ({"eval_fraction": 0.1, "eval_steps": 5}, "steps"),
        ({"eval_fraction": 0.1, "eval_strategy": "steps", "per_device_eval_batch_size": 16}, "steps"),
    ],
)
def test_what_is_held_out_is_evaluated_unless_the_recipe_says_no(fields, strategy):
    from balanced_thinking.cli import grpo, sft

    _, config, _ = sft.parse({"dataset": "icons", **fields})
    assert config.eval_strategy == strategy
    assert config.max_length is None
    _, _, config, _ = grpo.parse({"dataset": "icons", "grpo_preset": "vision-r1", **fields, **WHOLE_GROUPS})
    assert config.eval_strategy == strategy
