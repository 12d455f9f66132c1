"""Public names and defaults are a contract."""

import dataclasses
import importlib
import inspect

import pytest

import balanced_thinking as bt

PUBLIC = {
    "BalancedThinkingError", "Example", "ScaleSFTConfig", "ScaleSFTTrainer", "Segment", "SegmentError",
    "SegmentSchedule", "SegmentSpec", "THINK_ANSWER", "__version__", "accuracy_reward", "answers_match", "evaluate",
    "find_segments", "format_reward", "hard_reward", "load_examples", "parse_response", "scale_loss", "to_dataset",
    "token_weights", "weighted_linear_cross_entropy",
}  # fmt: skip


def test_public_names_load_and_are_documented():
    assert set(bt.__all__) == PUBLIC
    for name in bt.__all__:
        value = getattr(bt, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert len(inspect.getdoc(value) or "") > 60, f"{name} needs a docstring"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        bt.no_such_name  # noqa: B018


def test_signatures():
    def names(function):
        return list(inspect.signature(function).parameters)

    assert names(bt.find_segments) == ["text", "segments", "required"]
    assert names(bt.token_weights)[:3] == ["segment_ids", "weights", "sequence_count"]
    assert names(bt.scale_loss) == ["logits", "labels", "segment_ids", "weights", "sequence_count"]
    assert names(bt.weighted_linear_cross_entropy) == [
        "hidden", "head", "labels", "token_weights", "bias", "softcap", "scale", "chunk_rows",
    ]  # fmt: skip
    assert names(bt.load_examples) == [
        "path", "format", "image_root", "answer_from", "on_missing", "columns", "allow_outside", "segments",
    ]  # fmt: skip
    assert names(bt.parse_response) == ["text", "prefix", "segments"]
    assert names(bt.answers_match) == ["prediction", "reference", "kind", "choices"]
    assert names(bt.evaluate)[:7] == [
        "model", "benchmark", "output_dir", "limit", "max_new_tokens", "batch_size", "backend",
    ]  # fmt: skip
    assert [f.name for f in dataclasses.fields(bt.Example)] == [
        "id", "source", "images", "question", "choices", "think", "answer", "kind", "context", "response",
    ]  # fmt: skip


def test_own_settings_are_frozen():
    """A new knob must be wanted; adding one means adding it here."""
    from trl import SFTConfig

    own = {f.name for f in dataclasses.fields(bt.ScaleSFTConfig)} - {f.name for f in dataclasses.fields(SFTConfig)}
    assert own == {
        "loss", "scale_preset", "scale_shape", "scale_start", "scale_end", "scale_segments", "scale_tags",
        "scale_reduction", "scale_on_malformed", "scale_on_overflow", "scale_check", "scale_check_limit",
        "scale_new_total_steps", "freeze_vision_tower",
    }  # fmt: skip


def test_every_verb_has_a_module_with_a_docstring():
    from balanced_thinking.cli.main import VERBS

    for verb in VERBS:
        module = importlib.import_module(f"balanced_thinking.cli.{verb.replace('-', '_')}")
        assert callable(module.run)
        assert module.__doc__


def test_the_recipe_of_the_demo_is_valid(tmp_path):
    from importlib.resources import files

    import yaml
    from trl import ModelConfig

    from balanced_thinking.cli.parsing import parse_recipe
    from balanced_thinking.compare.comparison import read_comparison
    from balanced_thinking.compare.plan import plan_stages
    from balanced_thinking.training.dataset import DataArguments

    text = files("balanced_thinking.demo").joinpath("recipe.yaml").read_text(encoding="utf-8")
    comparison = read_comparison(yaml.safe_load(text), source="demo/recipe.yaml")
    trained = [stage for stage in plan_stages(comparison, tmp_path) if stage.trains]
    assert [stage.arm for stage in trained] == ["sft", "scale"]
    for stage in trained:
        recipe = tmp_path / f"{stage.arm}.yaml"
        recipe.write_text(yaml.safe_dump(dict(stage.recipe)), encoding="utf-8")
        data, config, _ = parse_recipe(
            (DataArguments, bt.ScaleSFTConfig, ModelConfig), ["--config", str(recipe)], prog="balanced sft"
        )
        assert (data.dataset, config.max_length) == (["icons"], None)
        assert config.loss == ("token_mean" if stage.arm == "sft" else "scale")
