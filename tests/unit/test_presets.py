"""The embedded models: a tokenizer that fits the benchmark, the family's own classes, names that become folders."""

import dataclasses
import functools
import io
import math
import random
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, Qwen2_5_VLProcessor, TrainerCallback

from balanced_thinking.data.prompts import build_completion, build_prompt
from balanced_thinking.demo import presets
from balanced_thinking.demo.presets import align, pretrain, tiny
from balanced_thinking.demo.presets.align import alignment_loss
from balanced_thinking.demo.presets.families import FAMILIES
from balanced_thinking.demo.presets.tokenizer import TAGS
from balanced_thinking.demo.presets.twins import build_twin
from balanced_thinking.errors import ConfigError
from balanced_thinking.evaluation.benchmarks import icons
from balanced_thinking.evaluation.benchmarks.icons_pool import seen_icons
from balanced_thinking.evaluation.evaluate import evaluate
from balanced_thinking.runinfo import build_once


class StopAt(TrainerCallback):
    """Ends a run after some steps, as a kill would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("untrained")
    tiny.build_untrained("qwen2_5_vl", folder)
    return folder


@pytest.fixture(scope="module")
def processor(untrained) -> Qwen2_5_VLProcessor:
    return AutoProcessor.from_pretrained(untrained)


def test_it_loads_by_the_auto_classes_as_the_real_family(untrained, processor):
    model = AutoModelForImageTextToText.from_pretrained(untrained)
    assert isinstance(processor, Qwen2_5_VLProcessor)
    assert model.config.model_type == "qwen2_5_vl"
    assert 2e6 < sum(parameter.numel() for parameter in model.parameters()) < 4e6
    assert model.generation_config.eos_token_id == processor.tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_the_same_seed_gives_the_same_files(untrained, tmp_path):
    tiny.build_untrained("qwen2_5_vl", tmp_path)
    for name in ("tokenizer.json", "model.safetensors", "config.json"):
        assert (tmp_path / name).read_bytes() == (untrained / name).read_bytes()


def test_words_of_the_benchmark_are_single_tokens(processor):
    words = [icon.name for group in seen_icons().values() for icon in group] + [*seen_icons(), "second", "third"]
    for word in [*words, *"ABCD012345"]:
        assert len(processor.tokenizer(word)["input_ids"]) == 1, word
    assert all(len(processor.tokenizer(f" {word}")["input_ids"]) == 1 for word in words)


def test_tags_are_single_tokens_that_decoding_keeps(processor):
    for tag in TAGS:
        (token,) = processor.tokenizer(tag)["input_ids"]
        assert processor.tokenizer.decode([token], skip_special_tokens=True) == tag


def test_other_text_round_trips(processor):
    text = "Größe: 3,14 % — naïve 漢字 <b>&amp;</b>\n\tend"
    assert processor.tokenizer.decode(processor.tokenizer(text)["input_ids"]) == text


def test_think_is_fifty_times_as_long_as_the_answer(processor):
    examples = [icons.make_example("icons", "train", n) for n in range(400)]
    think, answer = (
        sum(len(processor.tokenizer(text)["input_ids"]) for text in texts)
        for texts in ([e.think for e in examples], [e.answer for e in examples])
    )
    assert think / answer >= 50


def test_a_picture_of_icons_is_nine_tokens(processor):
    example = icons.make_example("icons", "train", 0)
    messages = [*build_prompt(example), *build_completion(example)]
    text = processor.apply_chat_template(messages, tokenize=False)
    assert text.startswith("<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>")
    assert text.endswith("</answer><|im_end|>\n")
    batch = processor(text=[text], images=[Image.open(io.BytesIO(example.images[0]))], return_tensors="pt")
    assert int((batch["input_ids"] == processor.image_token_id).sum()) == 9


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cell_of_the_grid_is_seen_by_the_tokens_that_are_said_to_show_it(family, tmp_path):
    tiny.build_untrained(family, tmp_path)
    model, own = AutoModelForImageTextToText.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    assert 2e6 < model.num_parameters() < 4e6
    for parameter in align.sight_parameters(model):
        if parameter.dim() > 1 and not parameter.any():  # Gemma 3's projector starts at zero
            torch.nn.init.normal_(parameter, std=0.1)
    cells = align.token_cells(family)
    example = icons.make_example("icons", "train", 0)
    text = own.apply_chat_template(build_prompt(example), tokenize=False)
    batch = own(text=[text], images=[[Image.open(io.BytesIO(example.images[0]))]], return_tensors="pt")
    assert int((batch["input_ids"] == model.config.image_token_id).sum()) == len(cells)
    plain = Image.new("RGB", (84, 84), "grey")
    noise = Image.effect_noise((28, 28), 120).convert("RGB")
    for cell in range(9):
        changed = plain.copy()
        changed.paste(noise, (cell % 3 * 28, cell // 3 * 28))
        with torch.no_grad():
            one, other = align.see(model, own, [_png(plain), _png(changed)])
        shown = [token for token, of in enumerate(cells) if of == cell]
        moved = (one - other).norm(dim=1)
        assert sorted(moved.topk(len(shown)).indices.tolist()) == shown


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("family", FAMILIES)
def test_all_but_the_text_model_is_sight(family, tmp_path):
    folder = build_twin(family, tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    sight = {id(parameter) for parameter in align.sight_parameters(model)}
    named = {name: id(parameter) in sight for name, parameter in model.named_parameters()}
    words = ("vision", "visual", "projector", "connector", "image_newline")
    assert named == {name: any(word in name for word in words) for name in named}


def test_alignment_loss_on_hand_worked_numbers():
    names, places = torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.zeros(1, 2)
    first = torch.tensor([0])
    # Right: logits (10, 0), no distance. Wrong: logits (0, 10), |(0, 2) - (2, 0)|^2 / 4 = 2.
    right = alignment_loss(torch.tensor([[2.0, 0.0]]), names, first, places, first)
    wrong = alignment_loss(torch.tensor([[0.0, 2.0]]), names, first, places, first)
    assert right.item() == pytest.approx(math.log1p(math.exp(-10)), abs=1e-6)
    assert wrong.item() == pytest.approx(12 + math.log1p(math.exp(-10)), rel=1e-6)


def test_heads_of_the_first_group_look_for_tokens_like_their_own(untrained):
    model = AutoModelForImageTextToText.from_pretrained(untrained)
    for layer in model.model.language_model.layers:
        queries, keys = (layer.self_attn.q_proj.weight.unflatten(0, (-1, 32)), layer.self_attn.k_proj.weight[:32])
        assert all(torch.equal(query, keys) for query in queries[:3])
        assert not any(torch.equal(query, keys) for query in queries[3:])


def test_rows_of_a_run_depend_on_their_number_and_follow_the_stages():
    recipe = dataclasses.replace(
        pretrain.RECIPE, steps=10, rows=10, stages=((0.0, {"where": 1}), (0.4, {"caption": 1}))
    )
    rows = [pretrain.make_row(number, recipe, 0) for number in range(0, 100, 10)]
    assert [row.question for row in rows] == ["Where is each icon?"] * 4 + ["Describe every cell."] * 6
    assert pretrain.make_row(10, recipe, 0) == rows[1]
    assert pretrain.make_row(10, recipe, 1) != rows[1]
    whole = dataclasses.replace(pretrain.RECIPE, steps=10, rows=10)
    first = [pretrain.make_row(0, whole, 0)]
    assert first[0].source == "icons/caption"
    last = [pretrain.make_row(number, whole, 0) for number in range(60, 100)]
    assert {"icons/caption"} < {row.source for row in last}
    assert all(row.think is None for row in [*first, *last])


def test_stopped_pretraining_goes_on_to_the_same_weights(untrained, tmp_path):
    recipe = dataclasses.replace(pretrain.RECIPE, align_steps=2, steps=4, rows=2, warmup_steps=1)
    whole = pretrain.pretrain(untrained, tmp_path / "whole", recipe=recipe, progress=False)
    config = pretrain.make_config(tmp_path / "parts", recipe, 0)
    config.save_steps = 2
    trainer = pretrain.make_trainer(tmp_path / "aligned", config, recipe, 0)
    trainer.add_callback(StopAt(2))
    trainer.train()
    parts = pretrain.pretrain(untrained, tmp_path / "parts", recipe=recipe, progress=False)
    assert not list(parts.glob("checkpoint-*"))
    assert (whole / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()
    assert AutoModelForImageTextToText.from_pretrained(whole).dtype == torch.bfloat16


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "qwen2_5_vl"])
def test_every_family_is_aligned_and_pretrained(family, tmp_path):
    recipe = dataclasses.replace(pretrain.RECIPE, align_steps=1, steps=2, rows=2, warmup_steps=1)
    tiny.build_untrained(family, tmp_path / "untrained")
    run = pretrain.pretrain(tmp_path / "untrained", tmp_path / "run", recipe=recipe, progress=False)
    start, aligned, done = (
        AutoModelForImageTextToText.from_pretrained(tmp_path / name, dtype=torch.bfloat16)
        for name in ("untrained", "aligned", run.name)
    )
    sights = [align.sight_parameters(model) for model in (start, aligned, done)]
    assert not all(map(torch.equal, sights[0], sights[1]))
    assert all(map(torch.equal, sights[1], sights[2]))  # it rests while the text model learns
    first = [model.get_decoder().layers[0].self_attn.q_proj.weight for model in (start, aligned, done)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[1], first[2])


def test_names_become_folders_and_other_names_pass_through(tmp_path):
    assert presets.resolve("Qwen/Qwen2.5-VL-3B-Instruct") == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert presets.resolve(tmp_path) == tmp_path
    with pytest.raises(ConfigError, match="preset 'tiny' is unknown; choose one of tiny-qwen2_5_vl"):
        presets.build("tiny")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        presets.build("tiny-qwen2_5_vl", tmp_path / "full")


def test_a_preset_that_does_not_ship_is_built_once_into_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BALANCED_THINKING_CACHE", str(tmp_path))
    made = []

    def make(family: str, name: str, folder: Path, *, work: Path, progress: bool = True) -> None:
        made.append(random.random())
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(tiny, "make", make)
    monkeypatch.setitem(presets.PRESETS, "other", dataclasses.replace(presets.PRESETS["tiny-qwen2_5_vl"], name="other"))
    assert "built on first use" in presets.list_presets()[-1]
    folder = presets.resolve("other")
    assert presets.resolve("other") == folder
    assert folder.parent == tmp_path / "presets"
    assert "cached in" in presets.list_presets()[-1]
    assert len(made) == 1


def test_an_empty_folder_is_built_into(tmp_path, monkeypatch):
    """It was handed back as it was, empty."""
    monkeypatch.setenv("BALANCED_THINKING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tiny, "make", lambda family, name, folder, **_: (folder / "made").touch())
    (tmp_path / "empty").mkdir()
    assert (presets.build("tiny-qwen2_5_vl", tmp_path / "empty") / "made").exists()
    with pytest.raises(ConfigError, match="is not empty; name a new folder"):
        presets.build("tiny-qwen2_5_vl", tmp_path / "empty")


def test_the_shipped_base_is_complete_small_and_made_for_this_code(untrained, processor):
    shipped = presets.PRESETS["tiny-qwen2_5_vl"].shipped
    assert {file.name for file in shipped.iterdir()} == {"README.md", *(file.name for file in untrained.iterdir())}
    assert sum(file.stat().st_size for file in shipped.iterdir()) <= 8 * 2**20
    own = AutoProcessor.from_pretrained(shipped)
    assert own.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert own.chat_template == processor.chat_template
    assert AutoModelForImageTextToText.from_pretrained(shipped).dtype == torch.bfloat16
    assert presets.resolve("tiny-qwen2_5_vl") == shipped


def test_the_shipped_base_answers_direct_questions(tmp_path):
    questions = [icons.make_example("icons", "val", number) for number in range(200)]
    file = build_once(tmp_path / "val", functools.partial(icons.write_split, questions, name="val")) / "val.jsonl"
    base = presets.resolve("tiny-qwen2_5_vl")
    row = evaluate(base, file, output_dir=tmp_path / "out", max_new_tokens=12, expects_think=False)
    assert row["accuracy"] >= 0.75  # the card gives the figure on all 2,000


def test_where_a_preset_is_can_be_asked_without_building_it(monkeypatch, tmp_path):
    monkeypatch.setenv("BALANCED_THINKING_CACHE", str(tmp_path))
    monkeypatch.setattr(presets, "build", lambda name: pytest.fail(f"{name} was built"))
    assert presets.located("tiny-qwen2_5_vl") == presets.resolve("tiny-qwen2_5_vl")
    assert presets.located("tiny-gemma3") is None
    place = tmp_path / "presets" / f"tiny-gemma3-{presets.PRESETS['tiny-gemma3'].fingerprint()}"
    place.mkdir(parents=True)
    assert presets.located("tiny-gemma3") == presets.resolve("tiny-gemma3") == place
