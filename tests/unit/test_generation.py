"""Batched greedy generation against plain ``model.generate``, through a real tiny Qwen2.5-VL."""

import random

import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPVisionConfig,
    DynamicCache,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    MistralConfig,
    SiglipVisionConfig,
)
from transformers.cache_utils import DynamicLayer

from balanced_thinking.core.segments import THINK_ANSWER, tags_of
from balanced_thinking.data.prompts import build_prompt
from balanced_thinking.errors import DataError, EvaluationError
from balanced_thinking.evaluation import decoding, generation
from balanced_thinking.evaluation.generation import (
    Generator,
    Prompt,
    ResponseReader,
    default_batch_size,
    greedy_config,
    is_out_of_memory,
)
from tiny import tiny_examples, tiny_processor, tiny_qwen2_5_vl

CAP = 24


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tiny_qwen2_5_vl(tmp_path_factory.mktemp("tiny"))
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    return model, AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def prompts():
    """Pictures of noise in three sizes and questions of several lengths, so that answers and prompts differ."""
    dice = random.Random(0)
    made = []
    for i, example in enumerate(tiny_examples(15)):
        size = (dice.choice([16, 24, 32]), 16)
        picture = Image.frombytes("RGB", size, dice.randbytes(3 * size[0] * size[1]))
        messages = build_prompt(example)
        messages[0]["content"][-1]["text"] += " look" * dice.randrange(4)
        made.append(Prompt(f"q{i}", messages, (picture,)))
    return made


@pytest.fixture(scope="module")
def plain(loaded, prompts):
    """New ids by ``model.generate``, one prompt at a time, and end tokens that let rows end at different steps."""
    model, processor = loaded
    rows = []
    for prompt in prompts:
        text = processor.apply_chat_template(prompt.messages, tokenize=False, add_generation_prompt=True)
        inputs = processor(text=[text], images=[list(prompt.images)], return_tensors="pt")
        out = model.generate(**inputs, do_sample=False, max_new_tokens=CAP, eos_token_id=[10**6])
        rows.append(out[0, inputs["input_ids"].shape[1] :].tolist())
    ends = [rows[0][3], rows[1][10], rows[2][17]]
    return rows, ends


def answer(generator, prompts):
    found = dict(pair for batch in generator.batches(prompts) for pair in batch)
    return [found[i] for i in range(len(prompts))]


def with_ends(model, ends):
    model.generation_config.eos_token_id = ends
    return model


def cut(ids, ends):
    stop = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    return ids[:stop]


@pytest.mark.parametrize("batch_size", [1, 4, 15])
def test_same_tokens_as_generate_one_by_one(loaded, prompts, plain, batch_size):
    rows, ends = plain
    model, processor = loaded
    ends = [*ends, processor.tokenizer.eos_token_id]
    generator = Generator(with_ends(model, ends), processor, CAP, batch_size=batch_size, bf16=False)
    responses = answer(generator, prompts)
    assert [r.token_ids for r in responses] == [cut(row, ends) for row in rows]
    assert [r.truncated for r in responses] == [cut(row, ends) == row for row in rows]
    assert len({len(r.token_ids) for r in responses}) > 2, "the rows should end at different steps"
    assert generator.stats.new_tokens == sum(len(r.token_ids) for r in responses)


def test_finished_rows_leave_the_batch(loaded, prompts, plain):
    ends = plain[1]
    model, processor = loaded
    widths = []
    hook = model.register_forward_pre_hook(
        lambda _, args, named: widths.append(len(named["input_ids"])), with_kwargs=True
    )
    answer(Generator(with_ends(model, ends), processor, CAP, batch_size=15, bf16=False), prompts)
    hook.remove()
    assert widths[0] == 15
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 15


def test_text_only_and_mixed_prompts(loaded, plain):
    model, processor = loaded
    with_ends(model, [processor.tokenizer.eos_token_id])
    picture = Image.new("RGB", (16, 16), (200, 30, 30))
    texts = [Prompt(f"t{n}", [{"role": "user", "content": "hello" + " there" * n}]) for n in range(3)]
    image = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}
    mixed = [texts[0], Prompt("p", [image], (picture,)), texts[1], texts[2]]
    together = answer(Generator(model, processor, 8, batch_size=4, bf16=False), mixed)
    alone = [answer(Generator(model, processor, 8, batch_size=1, bf16=False), [prompt])[0] for prompt in mixed]
    assert together == alone


def test_penalties_of_the_folder_do_not_count(loaded, prompts, plain):
    model, processor = loaded
    generator = Generator(with_ends(model, plain[1]), processor, CAP, bf16=False)
    before = answer(generator, prompts[:4])
    model.generation_config.repetition_penalty = 3.0
    try:
        assert answer(generator, prompts[:4]) == before
    finally:
        model.generation_config.repetition_penalty = None


def test_training_mode_comes_back(loaded, prompts):
    model, processor = loaded
    model.train()
    answer(Generator(model, processor, 2, bf16=False), prompts[:2])
    assert model.training
    model.eval()


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("[enforce fail] not enough memory")],
)
def test_batch_is_halved_and_retried(loaded, prompts, monkeypatch, error):
    model, processor = loaded
    expected = answer(Generator(model, processor, 4, batch_size=8, bf16=False), prompts[:8])
    inner, seen, told = Generator._generate, [], []

    def short_of_memory(self, inputs):
        seen.append(len(inputs["input_ids"]))
        if seen[-1] > 3:
            raise error
        return inner(self, inputs)

    monkeypatch.setattr(Generator, "_generate", short_of_memory)
    generator = Generator(model, processor, 4, batch_size=8, bf16=False, notify=told.append)
    assert answer(generator, prompts[:8]) == expected
    assert seen[:3] == [8, 4, 2]
    assert (generator.stats.lost_batches, generator.stats.batch_size) == (2, 2)
    assert "goes on with 4" in told[0]
    assert "goes on with 2" in told[1]


def test_too_little_memory_for_one_question_is_one_line(loaded, prompts, monkeypatch):
    def never(self, inputs):
        raise MemoryError

    monkeypatch.setattr(Generator, "_generate", never)
    with pytest.raises(EvaluationError, match="single question"):
        answer(Generator(*loaded, 4, batch_size=2, bf16=False, notify=lambda line: None), prompts)


def test_a_prompt_that_spells_a_picture_token_is_named_before_the_first_answer(loaded, prompts, monkeypatch):
    monkeypatch.setattr(Generator, "_attempt", lambda *_: pytest.fail("a batch was answered"))
    spoilt = Prompt("odd", [{"role": "user", "content": [{"type": "text", "text": "What is <|image_pad|>?"}]}])
    with pytest.raises(
        DataError, match=r"^record odd: 1 picture token <\|image_pad\|> in the text .*, but no pictures"
    ):
        answer(Generator(*loaded, CAP, batch_size=2), [*prompts, spoilt])


def test_other_runtime_errors_are_not_swallowed(loaded, prompts, monkeypatch):
    def broken(self, inputs):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(Generator, "_generate", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        answer(Generator(*loaded, 4, bf16=False), prompts)
    assert not is_out_of_memory(ValueError("no"))


@pytest.mark.parametrize("settings", [{"max_new_tokens": 0}, {"max_new_tokens": 4, "batch_size": 0}])
def test_bad_settings_are_refused(loaded, settings):
    with pytest.raises(EvaluationError, match="at least 1"):
        Generator(*loaded, **settings)


def test_cache_with_room_equals_the_plain_one():
    torch.manual_seed(0)
    plain, roomy = DynamicCache(), DynamicCache()
    plain.layers, roomy.layers = [DynamicLayer()], [decoding._RoomyLayer()]
    for step in range(150):
        new = torch.randn(len(plain.layers[0].keys) if step else 6, 2, 9 if step == 0 else 1, 4)
        for cache in (plain, roomy):
            cache.update(new, -new, 0)
        if step in (0, 40, 100):
            kept = torch.tensor([0, 2, 3, 5][: 4 - step // 40])
            plain.batch_select_indices(kept)
            roomy.batch_select_indices(kept)
        assert torch.equal(plain.layers[0].keys, roomy.layers[0].keys)
        assert torch.equal(plain.layers[0].values, roomy.layers[0].values)
    assert roomy.get_seq_length() == plain.get_seq_length() == 158


# (text, prefix, tokens inside think, tokens inside answer), counted by tokenising the inside alone
LENGTHS = [
    ("<think>the picture shows red</think><answer>A</answer>", ""),
    ("<think>é🙂漢 🙂</think><answer>🙂</answer>", ""),
    ("<think></think><answer>B</answer>", ""),
    ("<think>count two", ""),
    ("<answer>three</answer>", ""),
    ("plain", ""),
    ("count two</think><answer>A", "<think>"),
    ("<answer>A</answer> more", "<think></think>"),
    ("<think>red <answer>A</answer> red</think> so <answer>B</answer>", ""),
]


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize(("text", "prefix"), LENGTHS)
def test_lengths_are_counted_inside_the_tags(text, prefix, special):
    processor = tiny_processor()
    tokenizer = processor.tokenizer
    if special:
        tokenizer.add_special_tokens({"additional_special_tokens": list(tags_of(THINK_ANSWER))})
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    response = ResponseReader(processor)([*ids, tokenizer.convert_tokens_to_ids("<|im_start|>")], False, prefix=prefix)
    assert response.text == text
    spans = generation.inner_spans(prefix + text)
    for name, counted in (("think", response.think_tokens), ("answer", response.answer_tokens)):
        if name not in spans:
            assert counted is None
            continue
        start, end = (max(0, at - len(prefix)) for at in spans[name])
        assert counted == len(tokenizer(text[start:end], add_special_tokens=False)["input_ids"])


def test_tags_of_several_tokens_are_counted_too():
    tokenizer = tiny_processor().tokenizer
    ids = [token for piece in ("<", "think", ">", "red", "<", "/think", "><", "answer", ">", "A", "</answer", ">")
           for token in tokenizer(piece, add_special_tokens=False)["input_ids"]]  # fmt: skip
    response = ResponseReader(tokenizer)(ids, False)
    assert response.text == "<think>red</think><answer>A</answer>"
    # "red" is three bytes here or one token, as the vocabulary has it; "A" is one.
    assert response.think_tokens == len(tokenizer("red", add_special_tokens=False)["input_ids"])
    assert response.answer_tokens == 1


def test_batch_size_follows_the_model():
    class Sized:
        def __init__(self, n):
            self.n = n

        def num_parameters(self):
            return self.n

    assert [default_batch_size(Sized(n)) for n in (150_000, 3_000_000, 135_000_000, 4_000_000_000)] == [256, 256, 8, 8]


def gemma3():
    """Sliding-window layers in the cache, token types in the mask of the first pass."""
    text = Gemma3TextConfig(
        vocab_size=500, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, head_dim=16,
        num_key_value_heads=2, sliding_window=16,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    )  # fmt: skip
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    model = Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=490)
    )
    ids, mask = left_padded(image_tokens=4, words=(26, 18, 22))
    pixels = torch.randn(3, 3, 32, 32)
    return model, {
        "token_type_ids": (ids == 490).long(),
        "input_ids": ids,
        "attention_mask": mask,
        "pixel_values": pixels,
    }


def llava_next():
    """Pictures cut into tiles, whose sizes travel beside them."""
    text = MistralConfig(
        vocab_size=500, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=None,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    model = LlavaNextForConditionalGeneration(
        LlavaNextConfig(
            text_config=text,
            vision_config=vision,
            image_token_index=490,
            image_grid_pinpoints=[[32, 64], [64, 32]],
            vision_feature_layer=-1,
        )
    )
    ids, mask = left_padded(image_tokens=52, words=(12, 7, 9))
    pixels = torch.randn(3, 3, 3, 32, 32)
    sizes = torch.tensor([[32, 64]] * 3)
    return model, {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels, "image_sizes": sizes}


def left_padded(image_tokens, words):
    rows = [torch.randint(5, 480, (count + image_tokens,)) for count in words]
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for i, row in enumerate(rows):
        row[3 : 3 + image_tokens] = 490
        ids[i, -len(row) :] = row
    return ids, (ids != 0).long()


@pytest.mark.parametrize("family", [gemma3, llava_next])
def test_other_families_decode_as_generate_does(family):
    torch.manual_seed(0)
    model, inputs = family()
    for parameter in model.eval().parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    length = inputs["input_ids"].shape[1]
    free = model.generate(**inputs, generation_config=greedy_config(20, [499], 0))[:, length:]
    ends = sorted({int(free[0, 2]), int(free[1, 9])})
    config = greedy_config(20, ends, 0)
    expected = model.generate(**inputs, generation_config=config)[:, length:]
    found = model.generate(**inputs, generation_config=config, custom_generate=decoding.decode)
    assert [cut(row, ends) for row in found.tolist()] == [cut(row, ends) for row in expected.tolist()]
    assert len({len(cut(row, ends)) for row in expected.tolist()}) > 1
