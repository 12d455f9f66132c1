"""GRPO on a tiny real Qwen2.5-VL: it learns from our rewards, looks at its pictures, and resumes exactly."""

import json
import math
import shutil
from types import SimpleNamespace

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from scipy.stats import chi2
from test_resume import write_data
from tokenizers import AddedToken
from trl.data_utils import prepare_multimodal_messages

from balanced_thinking.cli.grpo import parse
from balanced_thinking.cli.main import main
from balanced_thinking.errors import ConfigError
from balanced_thinking.training import rollouts
from balanced_thinking.training.grpo import (
    GRPO_PRESETS,
    SpreadWarning,
    StrictGRPOConfig,
    refuse_hidden_tags,
)
from balanced_thinking.training.rollouts import encode, roll_out
from tiny import tiny_processor, tiny_tokenizer
from trainers import flat, load, train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("grpo-data") / "data")


@pytest.fixture(scope="module")
def own_reward(tmp_path_factory):
    """A reward that random weights can earn in part: the share of the letter e."""
    folder = tmp_path_factory.mktemp("reward")
    (folder / "letter_reward.py").write_text(
        "def letters(completions, **columns):\n"
        "    texts = [c[-1]['content'] for c in completions]\n"
        "    return [t.count('e') / max(len(t), 1) for t in texts]\n"
    )
    return folder


def recipe(folder, model, data, **changes):
    settings = {
        "lr_scheduler_type": "constant",
        "model_name_or_path": str(model),
        "dataset": str(data),
        "output_dir": str(folder / "run"),
        "reward_funcs": ["letter_reward.letters", "format"],
        "max_steps": 4,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 8,
        "learning_rate": 1e-3,
        "bf16": False,
        "save_steps": 2,
        "logging_steps": 1,
        "report_to": "none",
        "seed": 3,
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture
def grpo(own_reward, monkeypatch):
    monkeypatch.chdir(own_reward)
    return lambda *arguments: main(["grpo", *map(str, arguments)])


@pytest.fixture
def made_trainer(grpo, monkeypatch):
    """The trainer of a run through the real command."""
    from balanced_thinking.training import run as module

    made = []
    original = module.make_grpo_trainer
    monkeypatch.setattr(module, "make_grpo_trainer", lambda *a, **k: made.append(original(*a, **k)) or made[-1])

    def make(*arguments):
        assert grpo(*arguments) == 0
        return made[-1]

    return make


def logs(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_changes_the_weights_and_resumes_exactly(tiny_folder, data, tmp_path, grpo):
    """Four steps in one go equal two, then two more from the checkpoint: weights bit for bit, metrics alike."""
    path = recipe(tmp_path, tiny_folder, data)
    assert grpo("--config", path) == 0
    run = tmp_path / "run"
    whole, start = load_file(run / "model.safetensors"), load_file(tiny_folder / "model.safetensors")
    assert any(not torch.equal(whole[name], start[name]) for name in whole)
    rows = [row for row in logs(run) if "reward" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["rewards/format/mean"] == 0 for row in rows)
    assert any(row["rewards/letters/std"] > 0 for row in rows)
    done = json.loads((run / "run.json").read_text())
    assert done["finished"]
    assert done["stage"]["steps"] == 4
    assert done["stage"]["tokens"] > 0
    assert "GRPO" in (run / "README.md").read_text()

    # Killed behind its last checkpoint: nothing is left to train, and nothing more is trained.
    for name in ("model.safetensors", "README.md"):
        (run / name).unlink()
    (run / "run.json").write_text(json.dumps({**done, "finished": False}))
    assert grpo("--config", path) == 0
    finished = json.loads((run / "run.json").read_text())
    assert (finished["finished"], finished["stage"]["steps"]) == (True, 4)
    last = load_file(run / "model.safetensors")
    assert all(torch.equal(whole[name], last[name]) for name in whole)
    assert [row["step"] for row in logs(run) if "reward" in row] == [1, 2, 3, 4]

    shutil.rmtree(run / "checkpoint-4")
    for name in ("model.safetensors", "README.md"):
        (run / name).unlink()
    (run / "run.json").write_text(json.dumps({**done, "finished": False}))
    assert grpo("--config", path) == 0
    again = load_file(run / "model.safetensors")
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    same = [row for row in logs(run) if "reward" in row]
    assert [row["reward"] for row in same] == [row["reward"] for row in rows]


def test_pictures_reach_the_policy(tiny_folder, data, tmp_path, made_trainer):
    """Log-probabilities of the same completions change when the pictures of the prompts change places."""
    trainer = made_trainer("--config", recipe(tmp_path, tiny_folder, data, max_steps=1, per_device_train_batch_size=32))
    batch = trainer._buffered_inputs[0]
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    fields = {name: batch[name] for name in ("image_grid_thw", "num_images", "mm_token_type_ids")}
    pixels = batch["pixel_values"]
    with torch.no_grad():
        shown, swapped = (
            trainer._get_per_token_logps_and_entropies(
                trainer.model, ids, mask, batch["completion_ids"].size(1), pixel_values=values, **fields
            )[0]
            for values in (pixels, pixels.flip(0))
        )
    assert (shown - swapped).abs().max() > 1e-4


def test_grpo_sees_pictures_as_sft_does(tiny_folder, tmp_path, made_trainer, monkeypatch):
    """TRL's own way makes transparent parts black. None is opened before it is asked for."""
    from balanced_thinking.training import grpo as module

    opened = []
    original = module.open_image
    monkeypatch.setattr(module, "open_image", lambda *a, **k: opened.append(1) or original(*a, **k))
    lines = []
    for number in range(32):
        Image.new("RGBA", (16, 16), (0, 0, 0, 0)).save(tmp_path / f"{number}.png")
        row = {"id": str(number), "prompt": f"Which colour, {number}?", "answer": "red", "images": [f"{number}.png"]}
        lines.append(json.dumps(row) + "\n")
    (tmp_path / "train.jsonl").write_text("".join(lines))
    path = recipe(tmp_path, tiny_folder, tmp_path / "train.jsonl", max_steps=1, save_strategy="no", save_steps=500)
    trainer = made_trainer("--config", path)
    assert len(opened) < 32, "pictures were opened that no step needed"
    assert trainer.train_dataset[0]["images"][0].getpixel((0, 0)) == (255, 255, 255)
    assert module.prompts_of(trainer.train_dataset)[0] == trainer.train_dataset[0]["prompt"]


def test_a_bare_adapter_is_merged_and_kl_has_its_reference(tiny_folder, tiny_rows, data, tmp_path, grpo):
    from peft import LoraConfig, get_peft_model

    model, processor = load(tiny_folder)
    torch.manual_seed(0)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.peft_config["default"].base_model_name_or_path = str(tiny_folder)
    adapted.save_pretrained(tmp_path / "adapter")
    processor.save_pretrained(tmp_path / "adapter")  # as checkpoints and run folders have it
    merged = adapted.merge_and_unload()
    path = recipe(tmp_path, tmp_path / "adapter", data, max_steps=1, grpo_preset="vision-r1", num_generations=4)
    assert grpo("--config", path) == 0
    (started,) = (tmp_path / "run").glob("start-*")
    started, _ = load(started)
    assert torch.allclose(flat(started), flat(merged), atol=1e-6)
    row = next(row for row in logs(tmp_path / "run") if "reward" in row)
    assert "kl" in row
    config = json.loads((tmp_path / "run" / "run.json").read_text())["config"]
    assert (config["beta"], config["loss_type"], config["num_generations"]) == (0.01, "grpo", 4)
    assert config["reward_funcs"] == ["letter_reward.letters", "format"]


def test_an_sft_folder_is_a_start(tiny_folder, tiny_rows, data, tmp_path, grpo, capsys):
    trained = train(tiny_folder, tiny_rows, tmp_path / "sft", max_steps=1, per_device_train_batch_size=2)
    trained.save_model(str(tmp_path / "sft"))
    (tmp_path / "sft" / "run.json").write_text(json.dumps({"config": {"system_prompt": "Be brief."}}))
    assert grpo("--config", recipe(tmp_path, tmp_path / "sft", data, max_steps=1)) == 0
    # It was trained under this prompt; dropped, the policy saw another question.
    assert "system_prompt 'Be brief.', with which the model was trained" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "run.json").read_text())["config"]["system_prompt"] == "Be brief."


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"rollouts": "own"}, "rollouts must be auto or trl, not 'own'"),
        ({"grpo_preset": "grop"}, "grpo_preset 'grop' is unknown; choose one of trl, vision-r1"),
        ({"reward_funcs": ["acuracy"]}, "reward 'acuracy' is unknown"),
        ({"steps_per_generation": 4, "save_steps": 2}, "save_steps to a multiple of 4"),
        ({"num_iterations": 2, "save_steps": 3}, "save_steps to a multiple of 2"),
        ({"steps_per_generation": 3, "gradient_accumulation_steps": 2}, "neither divides the other"),
        ({"num_generation": 4}, "unknown key 'num_generation'; did you mean num_generations?"),
        ({"per_device_train_batch_size": 6}, "divisible"),
        ({"model_name_or_path": None}, "no model given"),
        ({"loss_type": "foo"}, "loss_type='foo' is unknown; choose one of grpo"),
        ({"scale_rewards": "foo"}, "scale_rewards='foo' is unknown; choose one of group, batch, none"),
        ({"limit": 1}, "1 prompts are fewer than the 2 of one generation (8 completions, 4 a prompt)"),
        ({"limit": 1, "max_steps": -1, "num_train_epochs": 1, "save_strategy": "no"}, "nothing would be trained"),
        ({"reward_weights": [1.0]}, "Number of reward weights (1) must match"),
        ({"sync_ref_model": True, "grpo_preset": "dr_grpo"}, "set `sync_ref_model=False`"),
        ({"use_vllm": True}, "vLLM is not available"),
        ({"use_transformers_continuous_batching": True}, "does not support multimodal models"),
    ],
)
def test_bad_settings_are_one_line(tiny_folder, data, tmp_path, grpo, capsys, changes, complaint):
    assert grpo("--config", recipe(tmp_path, tiny_folder, data, **changes)) == 2
    lines = [line for line in capsys.readouterr().err.strip().splitlines() if line.startswith("balanced: ")]
    assert len(lines) == 1
    assert complaint in lines[0]
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_reward_that_fails_stops_before_the_model_loads(tiny_folder, data, tmp_path, own_reward, grpo, capsys):
    (own_reward / "bad_reward.py").write_text("def nan(completions, **columns):\n    return [float('nan')] * 2\n")
    assert grpo("--config", recipe(tmp_path, tiny_folder, data, reward_funcs=["bad_reward.nan"])) == 2
    assert "reward nan returned NaN" in capsys.readouterr().err


def test_a_prompt_that_spells_a_picture_token_stops_before_the_model_loads(tiny_folder, data, tmp_path, grpo, capsys):
    spoilt = data.with_name("spoilt.jsonl")
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    rows[3]["prompt"][0]["content"][-1]["text"] += " <|image_pad|>"
    spoilt.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert grpo("--config", recipe(tmp_path, tiny_folder, spoilt)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"record {rows[3]['id']}: 2 picture tokens <|image_pad|>" in line


def test_every_preset_is_valid(tmp_path):
    for fields in GRPO_PRESETS.values():
        own = {name: value for name, value in fields.items() if name != "reward_funcs"}
        config = StrictGRPOConfig(str(tmp_path), per_device_train_batch_size=16, **own)
        assert all(getattr(config, name) == value for name, value in own.items())


def test_tags_hidden_from_rewards_are_refused():
    """Listed as special tokens, or only flagged as special: decoding leaves them out either way."""
    tokenizer = tiny_tokenizer()
    refuse_hidden_tags(tiny_processor(tokenizer))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>"]})
    with pytest.raises(ConfigError, match="<think> is a special token"):
        refuse_hidden_tags(tokenizer)
    flagged = tiny_tokenizer()
    flagged.add_tokens([AddedToken("</answer>", special=True, normalized=False)], special_tokens=True)
    with pytest.raises(ConfigError, match="</answer> is a special token"):
        refuse_hidden_tags(flagged)


def test_a_late_save_needs_no_boundary(tmp_path):
    config = StrictGRPOConfig(str(tmp_path), num_iterations=3, max_steps=60)
    assert config.save_steps == 500
    with pytest.raises(ConfigError, match="multiple of 3"):
        StrictGRPOConfig(str(tmp_path), num_iterations=3, max_steps=600)


def test_presets_stand_below_recipe_and_command_line(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("grpo_preset: dapo\nepsilon: 0.3\nreward_funcs: accuracy\noutput_dir: out\n")
    _, grpo, config, _ = parse(["--config", str(file)])
    assert (config.epsilon, config.epsilon_high, grpo.reward_funcs) == (0.3, 0.28, ["accuracy"])
    _, grpo, config, _ = parse(["--config", str(file), "--grpo_preset", "dr_grpo", "--epsilon", "0.4"])
    assert (config.epsilon, config.epsilon_high, config.loss_type) == (0.4, None, "dr_grpo")
    with pytest.raises(ConfigError, match="expected one argument"):
        parse(["--output_dir", "out", "--grpo_preset"])
    for wrong in (["dapo"], 3):
        with pytest.raises(ConfigError, match="grpo_preset"):
            parse({"output_dir": "out", "grpo_preset": wrong})


def logged(callback, *shares, groups_a_step):
    """Feeds shares of groups without spread, one step each; nine of ten completions are cut off."""
    args = SimpleNamespace(
        gradient_accumulation_steps=1,
        steps_per_generation=1,
        generation_batch_size=8 * groups_a_step,
        num_generations=8,
    )
    for step, share in enumerate(shares, 1):
        state = SimpleNamespace(global_step=step, is_world_process_zero=True)
        callback.on_log(args, state, None, logs={"frac_reward_zero_std": share, "completions/clipped_ratio": 0.9})


def test_warnings_name_the_remedy_once(capsys):
    logged(SpreadWarning(), 0.5, 0.75, 1.0, groups_a_step=20)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "90%" in lines[0]
    assert "max_completion_length" in lines[0]
    assert "75%" in lines[1]
    assert "num_generations" in lines[1]


def test_a_single_group_without_spread_is_no_reason_to_warn(capsys):
    """With one group a step the share is 0 or 1; of the last twenty it says something."""
    callback = SpreadWarning()
    logged(callback, *[1.0] * 10, *[0.0] * 10, groups_a_step=1)
    assert [line for line in capsys.readouterr().err.splitlines() if "equal rewards" in line] == []
    logged(callback, *[1.0] * 15, groups_a_step=1)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "equal rewards" in line]
    assert "step 11: 55% of the groups" in line


def prompts_of(trainer, count):
    """The prompts of the first rows, one after the other, as TRL hands them to generation."""
    rows = [trainer.train_dataset[i] for i in range(count)]
    return [prepare_multimodal_messages(row["prompt"], images=row["images"]) for row in rows]


def test_own_rollouts_write_what_trl_writes(tiny_folder, data, tmp_path, made_trainer):
    """With one token to choose from, greedily: the same ids of prompts and completions, groups in the same order."""
    path = recipe(tmp_path, tiny_folder, data, max_steps=1, top_k=1, max_completion_length=24, use_cpu=True)
    trainer = made_trainer("--config", path)
    assert trainer.rollout_func is roll_out
    # Random weights answer alike to all pictures; larger ones let the picture speak.
    with torch.no_grad():
        for layer in trainer.model.model.visual.parameters():
            layer.mul_(3)
    prompts = [prompt for prompt in prompts_of(trainer, 4) for _ in range(4)]
    ours = trainer._generate(prompts)
    trainer.rollout_func = None
    theirs = trainer._generate(prompts)
    assert ours[0] == theirs[0]
    assert ours[1] == theirs[1]
    assert len({tuple(ids) for ids in ours[1]}) > 1
    assert ours[3] == theirs[3]


def test_own_rollouts_draw_from_the_law_that_was_asked_for(tiny_folder, data, tmp_path, made_trainer):
    """First tokens of 6,000 completions against softmax(logits / temperature), the image token left out."""
    path = recipe(tmp_path, tiny_folder, data, max_steps=1, temperature=0.5, max_completion_length=1)
    trainer = made_trainer("--config", path)
    (prompt,) = prompts_of(trainer, 1)
    with torch.no_grad():
        model = trainer.model.eval()
        scores = model(**encode(trainer, [prompt])).logits[0, -1].double() / 0.5
    scores[model.config.image_token_id] = -math.inf
    torch.manual_seed(0)
    drawn = torch.tensor(roll_out([prompt] * 6000, trainer)["completion_ids"])[:, 0]
    expected = 6000 * scores.softmax(0)
    found = torch.bincount(drawn, minlength=len(scores)).double()
    often = expected >= 5
    pairs = [(found[often], expected[often]), (found[~often].sum()[None], expected[~often].sum()[None])]
    statistic = sum(((f - e) ** 2 / e.clamp(min=1e-9)).sum().item() for f, e in pairs)
    assert statistic < chi2.ppf(0.999, int(often.sum()))
    assert found[model.config.image_token_id] == 0


@pytest.mark.parametrize(
    ("changes", "own"),
    [
        ({}, True),
        ({"rollouts": "trl"}, False),
        ({"use_transformers_continuous_batching": False, "generation_kwargs": {"num_beams": 2}}, False),
        ({"generation_kwargs": {"use_cache": False}}, False),
        ({"generation_kwargs": {"cache_implementation": "static"}}, False),
        ({"generation_kwargs": {"max_time": 9.0}}, False),
        ({"generation_kwargs": {"min_new_tokens": 2}}, True),
    ],
)
def test_who_makes_the_rollouts(tiny_folder, data, tmp_path, made_trainer, changes, own):
    trainer = made_trainer("--config", recipe(tmp_path, tiny_folder, data, max_steps=1, **changes))
    assert (trainer.rollout_func is roll_out) == own


def test_rows_with_and_without_pictures(tiny_folder, data, tmp_path, grpo, capsys):
    """Our rollouts read them together; TRL's own would end in a traceback at the first step."""
    rows = [json.loads(line) for line in data.read_text().splitlines()[:4]]
    for row in rows[::2]:
        row["images"] = []
        row["prompt"] = [{"role": "user", "content": "How many?"}]
    (tmp_path / "mixed.jsonl").write_text("\n".join(map(json.dumps, rows)))
    mixed = {"image_root": str(data.parent), "max_steps": 1, "per_device_train_batch_size": 8}
    path = recipe(tmp_path, tiny_folder, tmp_path / "mixed.jsonl", rollouts="trl", **mixed)
    assert grpo("--config", path) == 2
    assert "cannot read rows with and without pictures together" in capsys.readouterr().err
    assert grpo("--config", recipe(tmp_path, tiny_folder, tmp_path / "mixed.jsonl", **mixed)) == 0


def test_only_equal_pictures_share_a_prompt():
    """Same question and size: another pixel, or another palette behind the same indices, is another prompt."""
    plain = Image.new("RGB", (8, 8), (255, 0, 0))
    other = plain.copy()
    other.putpixel((7, 7), (254, 0, 0))
    palettes = [
        Image.new("RGB", (8, 8), colour).convert("P", palette=Image.Palette.ADAPTIVE) for colour in ("red", "blue")
    ]

    def key(picture):
        content = [{"type": "image", "image": picture}, {"type": "text", "text": "Which colour?"}]
        return rollouts._key([{"role": "user", "content": content}])

    assert key(plain) == key(plain.copy())
    assert key(plain) != key(other)
    assert key(palettes[0]) != key(palettes[1])
