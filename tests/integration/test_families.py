"""One matrix over the families: where segments sit, what is trained, exactness, LoRA, frozen towers, GRPO, resume."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import ModelConfig

from balanced_thinking.cli.main import main
from balanced_thinking.data.collate import ScaleCollator
from balanced_thinking.data.example import Example
from balanced_thinking.data.families import cut_into_crops, image_token_counter
from balanced_thinking.data.prompts import build_prompt
from balanced_thinking.data.records import to_dataset, to_trl_row
from balanced_thinking.data.rowcheck import read_row
from balanced_thinking.data.templates import render_prompt
from balanced_thinking.demo.presets.families import FAMILIES, family_of
from balanced_thinking.demo.presets.tokenizer import bytes_vocabulary
from balanced_thinking.demo.presets.twins import SIZE, build_twin
from balanced_thinking.errors import ConfigError, DataError
from balanced_thinking.evaluation.generation import Generator, Prompt, greedy_config, render_prompts
from balanced_thinking.models.modeling import load_processor
from balanced_thinking.training import run
from balanced_thinking.training.grpo import prefilled_tag
from balanced_thinking.training.sft import ScaleSFTTrainer
from balanced_thinking.training.weights import adapter_config
from trainers import config, drift, flat, load, losses, train

SIZES = ((16, 16), (32, 16), (16, 40), (24, 24), (40, 32))


CROPS = "gemma3, pan-and-scan"


@pytest.fixture(scope="module", params=[*FAMILIES, CROPS])
def folder(request, tmp_path_factory):
    twin = build_twin(request.param.split(",")[0], tmp_path_factory.mktemp("twin") / request.param.replace(", ", "-"))
    if request.param == CROPS:
        processor = AutoProcessor.from_pretrained(twin)
        processor.image_processor.pan_and_scan_min_crop_size = 8
        cut_into_crops(processor)
        processor.save_pretrained(twin)
    return twin


@pytest.fixture(scope="module")
def processor(folder):
    return load_processor(folder)


def test_saved_crops_reach_every_user_of_the_processor(folder, processor, examples):
    """Whoever loads it: ours, or a stock processor that the collator got."""
    row = to_trl_row(next(example for example in examples if example.images[0].size == (16, 40)))
    stock = AutoProcessor.from_pretrained(folder)
    assert torch.equal(ScaleCollator(stock)([row])["pixel_values"], ScaleCollator(processor)([row])["pixel_values"])
    crops = "crops to help you see better" in processor.tokenizer.decode(ScaleCollator(stock)([row])["input_ids"][0])
    assert crops == ("pan" in folder.name)


def picture(number):
    width, height = SIZES[number % len(SIZES)]
    return Image.effect_noise((width, height), 80 + number).convert("RGB")


@pytest.fixture(scope="module")
def examples():
    """No, one and two pictures of several sizes; traces and answers of several lengths."""
    made = []
    for number in range(12):
        pictures = tuple(picture(number + k) for k in range(number % 3 if number % 3 else 1))
        think = "it seems red green blue " * (1 + number % 4)
        made.append(
            Example(f"e{number}", "f", pictures, "Which colour is it?", None, think, "red" * (number % 2 + 1), "text")
        )
    return made


@pytest.fixture(scope="module")
def rows(examples):
    return to_dataset(examples)


def test_segments_sit_on_the_text_that_they_name(processor, examples):
    """After the expansion of pictures, the trained ids decode to trace, answer and end of turn, in their segments."""
    collate = ScaleCollator(processor)
    batch = collate([to_trl_row(example) for example in examples])
    end = processor.tokenizer.eos_token
    for b, example in enumerate(examples):
        ids, segments = batch["input_ids"][b], batch["shift_segment_ids"][b]
        parts = {s: processor.tokenizer.decode(batch["shift_labels"][b][segments == s]) for s in (1, 2)}
        assert parts[1] == f"<think>{example.think}</think>"
        assert parts[2] == f"<answer>{example.answer}</answer>{end}"
        # Shifted once: what a position predicts is the next id.
        where = segments.nonzero().squeeze(1)
        assert torch.equal(batch["shift_labels"][b][where], ids[where + 1])


def test_rows_with_and_without_pictures_share_a_batch(processor, examples):
    rows = [to_trl_row(examples[1]), to_trl_row(replace(examples[0], images=())), to_trl_row(examples[2])]
    collate = ScaleCollator(processor)
    together, alone = collate(rows), [collate([row]) for row in rows]
    for b, own in enumerate(alone):
        length = int(own["attention_mask"].sum())
        assert torch.equal(together["input_ids"][b][:length], own["input_ids"][0])
        assert torch.equal(together["shift_segment_ids"][b][:length], own["shift_segment_ids"][0])
        assert int(together["attention_mask"][b].sum()) == length


def test_training_and_inference_see_the_same_prompt(processor, examples):
    """Ids as transformers' own ``apply_chat_template`` gives them, of rows with one and with two pictures."""
    collate = ScaleCollator(processor)
    assert {len(example.images) for example in examples[:6]} == {1, 2}
    for example in examples[:6]:
        batch = collate([to_trl_row(example)])
        first = int(batch["shift_segment_ids"][0].nonzero()[0]) + 1
        messages, pictures = build_prompt(example), iter(example.images)
        for part in (part for message in messages for part in message["content"]):
            if part["type"] == "image":
                part["image"] = next(pictures)
        prompt = processor.apply_chat_template([messages], add_generation_prompt=True, tokenize=True, return_dict=True)
        assert batch["input_ids"][0][:first].tolist() == list(prompt["input_ids"][0])


def test_token_types_mark_the_tokens_of_pictures(processor, examples):
    """Gemma 3 lets the tokens of a picture see each other by them."""
    rows = [to_trl_row(examples[1]), to_trl_row(replace(examples[0], images=())), to_trl_row(examples[2])]
    batch = ScaleCollator(processor)(rows)
    assert ("token_type_ids" in batch) == ("Gemma3" in type(processor).__name__)
    if "token_type_ids" in batch:
        picture = processor.tokenizer.convert_tokens_to_ids("<image_soft_token>")
        assert torch.equal(batch["token_type_ids"] == 1, batch["input_ids"] == picture)
        assert set(batch["token_type_ids"].unique().tolist()) == {0, 1}


def test_lengths_are_known_without_the_pictures(processor, examples):
    collate, tokens = ScaleCollator(processor), image_token_counter(processor)
    for example in examples:
        row = to_trl_row(example)
        length = int(collate([row])["attention_mask"].sum())
        assert collate.count_tokens(read_row(row), tokens([image.size for image in example.images])) == length


@pytest.mark.parametrize("field", ["think", "question", "choices"])
@pytest.mark.parametrize("pictures", [0, 1])
def test_a_picture_token_in_a_text_is_one_line(processor, examples, field, pictures):
    """Before the first step, in a batch, and in an evaluation; the tokenizer would take it for a picture."""
    collate, known = ScaleCollator(processor), processor.tokenizer.get_vocab()
    for token in {processor.image_token, "<image_soft_token>", "<|video_pad|>"} & set(known):
        spelt = ("red", f"the {token} mark") if field == "choices" else f"say {token} here"
        example = replace(examples[1], id="odd", images=examples[1].images[:pictures], **{field: spelt})
        row = to_trl_row(example)
        told = rf"^record odd: . picture tokens? {re.escape(token)} in the text that the model reads, but .* picture"
        with pytest.raises(DataError, match=told):
            collate([row])
        with pytest.raises(DataError, match=told):
            collate.count_tokens(read_row(row), 0)
        if field != "think":
            with pytest.raises(DataError, match=told):
                render_prompts(processor, [Prompt("odd", build_prompt(example), example.images)])
    plain = replace(examples[1], think="a plain <picture> and [IMG]")
    assert len(collate([to_trl_row(plain)])["input_ids"]) == 1


# As Qwen3-VL's thinking models write chats: the trace of the last response on lines of its own, earlier ones left out.
THINKING = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% for part in message.content %}{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif message.role != 'assistant' %}{{ part.text }}"
    "{% else %}{% if loop.last and message == messages[-1] KEPT %}"
    "{{ '<think>\n' + part.text.split('</think>')[0].split('<think>')[-1] + '\n</think>\n\n' }}{% endif %}"
    "{{ part.text.split('</think>')[-1] }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' + 'OPENED' }}{% endif %}"
)


@pytest.mark.parametrize("opened", ["<think>\n", ""])
@pytest.mark.parametrize("kept", [True, False])
def test_templates_that_open_strip_and_drop_traces(opened, kept):
    """On Qwen3-VL's processor: what follows the pre-filled part is trained, a trace that is stripped is refused."""
    family = FAMILIES["qwen3_vl"]
    processor = family.make_processor(family.make_tokenizer(*bytes_vocabulary()), SIZE)
    template = THINKING.replace("OPENED", opened.replace("\n", "\\n")).replace("KEPT", "" if kept else "and false")
    processor.chat_template = template

    def turn(role, *parts):
        return {"role": role, "content": [*parts]}

    def said(text):
        return {"type": "text", "text": text}

    earlier = [turn("user", {"type": "image"}, said("Q1")), turn("assistant", said("<think>old</think>A1"))]
    row = {"id": "r", "prompt": [*earlier, turn("user", said("Q2"))], "images": [picture(0)]}
    row["completion"] = [turn("assistant", said("<think>red</think><answer>B</answer>"))]
    assert prefilled_tag(processor, row["prompt"]) == opened
    if not kept:
        with pytest.raises(ConfigError, match=r"record r: the chat template .*; use a template"):
            ScaleCollator(processor)([row])
        return
    batch = ScaleCollator(processor)([row])
    labels, segments = batch["shift_labels"][0], batch["shift_segment_ids"][0]
    parts = [processor.tokenizer.decode(labels[segments == number]) for number in (1, 2)]
    assert parts == [f"{'' if opened else '<think>' + chr(10)}red\n</think>\n\n", "<answer>B</answer><|im_end|>"]
    text = processor.tokenizer.decode(batch["input_ids"][0])
    assert "A1" in text
    assert "old" not in text


@pytest.mark.parametrize("loss", ["scale", "token_mean"])
def test_accumulation_is_exact(folder, rows, tmp_path, loss):
    whole = train(folder, rows, tmp_path / "a", loss=loss, max_steps=2, per_device_train_batch_size=6)
    parts = train(
        folder,
        rows,
        tmp_path / "b",
        loss=loss,
        max_steps=2,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=3,
    )
    start = AutoModelForImageTextToText.from_pretrained(folder)
    assert drift(whole.model, parts.model, start) < 1e-4
    assert losses(whole) == pytest.approx(losses(parts), abs=1e-5)


def test_pictures_matter_and_a_frozen_tower_rests(folder, rows, tmp_path):
    trained = train(folder, rows, tmp_path, max_steps=2, per_device_train_batch_size=4, freeze_vision_tower=True)
    start = AutoModelForImageTextToText.from_pretrained(folder)
    tower, before = trained.model.get_encoder(modality="image"), start.get_encoder(modality="image")
    assert torch.equal(flat(tower), flat(before).to(flat(tower).dtype))
    assert not torch.equal(flat(trained.model), flat(start))
    free = train(folder, rows, tmp_path / "free", max_steps=2, per_device_train_batch_size=4)
    assert not torch.equal(flat(free.model.get_encoder(modality="image")), flat(before))


TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def test_lora_trains_its_adapter_alone(folder, rows, tmp_path):
    """With the recipes' names, which vision layers have too: under a frozen tower all adapters are the text model's."""
    model, processor = load(folder)
    asked = ModelConfig(use_peft=True, lora_r=2, lora_target_modules=TARGETS)
    assert adapter_config(asked, str(folder), tower_frozen=False).exclude_modules is None
    adapter = adapter_config(asked, str(folder), tower_frozen=True)
    adapter.init_lora_weights = False
    settings = config(tmp_path, max_steps=2, freeze_vision_tower=True)
    trainer = ScaleSFTTrainer(model, settings, train_dataset=rows, processing_class=processor, peft_config=adapter)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    changed = {name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])}
    made = {name for name in before if "lora_" in name}
    text = trainer.model.get_base_model().get_decoder()
    assert changed == made
    assert len(made) == 2 * sum(name.rpartition(".")[2] in TARGETS for name, _ in text.named_modules())
    assert all(".vision" not in name and ".visual" not in name for name in made)


@pytest.mark.parametrize("lora", [False, True])
def test_fsdp_finds_the_layers_that_it_cuts_the_model_by(folder, rows, tmp_path, monkeypatch, lora):
    """As recipes/accelerate/fsdp2.yaml has it, which names none: of LLaVA and Gemma 3 some named were not there."""
    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy

    monkeypatch.setenv("FSDP_VERSION", "2")
    model, processor = load(folder)
    adapter = LoraConfig(r=2, target_modules=["q_proj"]) if lora else None
    made = ScaleSFTTrainer(
        model, config(tmp_path, max_steps=1), train_dataset=rows, processing_class=processor, peft_config=adapter
    ).model
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="TRANSFORMER_BASED_WRAP")
    plugin.set_auto_wrap_policy(made)
    cut = fsdp2_prepare_auto_wrap_policy(plugin, made)
    base = made.get_base_model() if lora else made
    assert all(cut(layer) for layer in base.get_decoder().layers)
    assert any(cut(module) for module in base.get_encoder(modality="image").modules())


def test_batches_give_the_tokens_of_generate(folder, processor, examples):
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    prompts = [Prompt(e.id, build_prompt(e), e.images) for e in examples]
    generator = Generator(model, processor, max_new_tokens=12, batch_size=5, bf16=False)
    found = {i: response.token_ids for batch in generator.batches(prompts) for i, response in batch}
    end = processor.tokenizer.eos_token_id
    for i, (prompt, example) in enumerate(zip(prompts, examples, strict=True)):
        text = render_prompt(processor, prompt.messages)
        inputs = processor(
            text=[text], images=[list(example.images)], return_tensors="pt",
            add_special_tokens=not text.startswith(("<s>", "<bos>")),
        )  # fmt: skip
        config = greedy_config(12, [end], processor.tokenizer.pad_token_id)
        ids = model.generate(**inputs, generation_config=config)[0, inputs["input_ids"].shape[1] :].tolist()
        assert found[i] == (ids[: ids.index(end)] if end in ids else ids)


def write(path, examples):
    path.mkdir()
    with (path / "data.jsonl").open("w") as file:
        for example in examples:
            row = to_trl_row(example)
            row["images"] = []
            for number, image in enumerate(example.images):
                image.save(path / f"{example.id}-{number}.png")
                row["images"].append(f"{example.id}-{number}.png")
            file.write(json.dumps(row) + "\n")
    return path / "data.jsonl"


def test_a_run_of_the_command_is_resumed_and_loads_without_our_code(folder, examples, tmp_path, capsys):
    """Two steps, then two more from the checkpoint, equal four in one go; the folder is a plain model folder."""
    data, common = write(tmp_path / "data", examples), ["--max_steps", "4", "--save_steps", "2", "--bf16", "false"]
    common += ["--per_device_train_batch_size", "4", "--learning_rate", "1e-3", "--report_to", "none"]
    common += ["--model_name_or_path", str(folder), "--dataset", str(data), "--logging_steps", "1"]
    assert main(["sft", *common, "--output_dir", str(tmp_path / "run")]) == 0
    whole = AutoModelForImageTextToText.from_pretrained(tmp_path / "run")
    assert type(AutoProcessor.from_pretrained(tmp_path / "run")) is type(AutoProcessor.from_pretrained(folder))
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    (tmp_path / "run" / "model.safetensors").unlink()
    done = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps({**done, "finished": False}))
    capsys.readouterr()
    assert main(["sft", *common, "--output_dir", str(tmp_path / "run")]) == 0
    told = capsys.readouterr().err
    assert [step for step in range(1, 5) if f"step {step}/4" in told] == [3, 4]  # not from the start once more
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "run")
    assert torch.equal(flat(whole), flat(again))
    assert not torch.equal(flat(whole), flat(AutoModelForImageTextToText.from_pretrained(folder)))


def test_a_grpo_step_changes_the_weights(folder, examples, tmp_path, monkeypatch, capsys):
    (tmp_path / "letter_share.py").write_text(
        "def letters(completions, **columns):\n    return [len(set(c[-1]['content'])) / 10 for c in completions]\n"
    )
    monkeypatch.chdir(tmp_path)
    assert {len(example.images) for example in examples} == {1, 2}
    arguments = ["--model_name_or_path", str(folder), "--dataset", str(write(tmp_path / "data", examples))]
    arguments += ["--reward_funcs", "letter_share.letters", "--max_steps", "1", "--per_device_train_batch_size", "8"]
    arguments += [
        "--num_generations",
        "4",
        "--max_completion_length",
        "8",
        "--learning_rate",
        "1e-2",
        "--bf16",
        "false",
    ]
    made, make = [], run.make_grpo_trainer
    monkeypatch.setattr(run, "make_grpo_trainer", lambda *a, **k: made.append(make(*a, **k)) or made[-1])
    crops = "pan" in folder.name
    assert main(["grpo", *arguments, "--output_dir", str(tmp_path / "run"), "--report_to", "none"]) == (
        2 if crops else 0
    )
    if crops:
        assert "sees pictures in crops (pan_and_scan), which TRL's GRPOTrainer cannot" in capsys.readouterr().err
        return
    after, before = (AutoModelForImageTextToText.from_pretrained(place) for place in (tmp_path / "run", folder))
    assert not torch.equal(flat(after), flat(before))
    assert made[0].model._no_split_modules <= {type(module).__name__ for module in made[0].model.modules()}


def test_families_are_known_by_folder_and_by_name(folder, tmp_path):
    assert FAMILIES[family_of(str(folder))] is not None
    names = {
        "Qwen/Qwen2.5-VL-3B-Instruct": "qwen2_5_vl", "Qwen/Qwen3-VL-4B-Instruct": "qwen3_vl",
        "llava-hf/llava-v1.6-mistral-7b-hf": "llava_next", "google/gemma-3-4b-it": "gemma3",
        "HuggingFaceTB/SmolVLM-Instruct": "idefics3",
    }  # fmt: skip
    assert {name: family_of(name) for name in names} == names
    folders = ("qwen2_5_vl_3b-scale", "llava_v1_6_mistral_7b-scale", "gemma_3_4b-scale/")
    assert [family_of(f"runs/{name}") for name in folders] == ["qwen2_5_vl", "llava_next", "gemma3"]


@pytest.mark.parametrize(
    "name",
    ["gpt2", "google/paligemma-3b-mix-224", "google/gemma-3n-E4B-it", "google/gemma-3-1b-it", "google/gemma-3-270m",
     "llava-hf/LLaVA-NeXT-Video-7B-hf", "Qwen/Qwen3-VL-30B-A3B-Instruct", "Qwen/Qwen3-VL-235B-A22B-Thinking",
     "vidore/colqwen2.5-v0.2", "llava-next/gpt2"],
)  # fmt: skip
def test_names_that_are_like_a_family_s_are_none_of_it(name):
    """A trial on the twin of another architecture would say that all is well."""
    with pytest.raises(ConfigError, match=f"^{name} is of no family that has a twin; there are qwen2_5_vl"):
        family_of(name)


def test_pictures_are_shrunk_where_that_saves_tokens(folder, examples, tmp_path, capsys):
    """Qwen's families: fewer tokens, and the saved processor does the same; others say that it does not apply."""
    data = write(tmp_path / "data", examples)
    arguments = ["--model_name_or_path", str(folder), "--dataset", str(data), "--max_steps", "1", "--max_pixels", "256"]
    arguments += ["--per_device_train_batch_size", "2", "--report_to", "none", "--output_dir", str(tmp_path / "run")]
    if "qwen" not in str(folder):
        assert main(["sft", *arguments]) == 2
        assert "max_pixels does not apply to" in capsys.readouterr().err
        return
    assert main(["sft", *arguments]) == 0
    large = Image.new("RGB", (40, 32))
    tokens = [image_token_counter(AutoProcessor.from_pretrained(p))([large.size]) for p in (folder, tmp_path / "run")]
    assert tokens[1] <= 256 / 64 < tokens[0]
    assert main(["sft", *arguments[:-1], str(tmp_path / "small"), "--max_pixels", "63"]) == 2
    assert "max_pixels must be at least 64, one token of this model" in capsys.readouterr().err


def test_crops_are_turned_on_where_the_family_has_them(folder, examples, tmp_path, capsys):
    """And the saved folder keeps them: what it is evaluated with is what it was trained with."""
    data = write(tmp_path / "data", examples)
    arguments = ["--model_name_or_path", str(folder), "--dataset", str(data), "--max_steps", "1", "--pan_and_scan"]
    arguments += ["--per_device_train_batch_size", "2", "--report_to", "none", "--output_dir", str(tmp_path / "run")]
    if "gemma3" not in str(folder):
        assert main(["sft", *arguments]) == 2
        assert "pan_and_scan does not apply to" in capsys.readouterr().err
        return
    assert main(["sft", *arguments]) == 0
    assert load_processor(tmp_path / "run").images_kwargs["do_pan_and_scan"] is True
    assert load_processor(folder).images_kwargs["do_pan_and_scan"] is ("pan" in folder.name)
