"""Which token belongs to which segment, on real tokenizers and templates; ids as the chat template gives them."""

import pytest
import torch
from PIL import Image

from balanced_thinking.compare.comparison import ARMS
from balanced_thinking.core.segments import THINK_ANSWER, SegmentSpec
from balanced_thinking.data.collate import ScaleCollator
from balanced_thinking.data.records import to_trl_row
from balanced_thinking.data.rowcheck import read_row
from balanced_thinking.data.templates import Rendered, token_targets
from balanced_thinking.errors import ConfigError, DataError, SegmentError
from balanced_thinking.training.sft import make_collator
from balanced_thinking.training.sft_config import ScaleSFTConfig
from tiny import CHAT_TEMPLATE, tiny_examples, tiny_processor

PICTURE = Image.new("RGB", (16, 16), (200, 30, 30))


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


def row(response: str, *, pictures: int = 1, **more):
    content = [{"type": "image"}] * pictures + [{"type": "text", "text": "Which colour?"}]
    return {
        "id": "r",
        "prompt": [{"role": "user", "content": content}],
        "completion": [{"role": "assistant", "content": [{"type": "text", "text": response}]}],
        "images": [PICTURE] * pictures,
        **more,
    }


def parts(processor, batch, b=0) -> dict[int, str]:
    """Text of the trained tokens by segment id, in order."""
    labels, ids = batch["shift_labels"][b], batch["shift_segment_ids"][b]
    found: dict[int, list[int]] = {}
    for label, segment in zip(labels.tolist(), ids.tolist(), strict=True):
        if label != -100:
            found.setdefault(segment, []).append(label)
    return {segment: processor.tokenizer.decode(tokens) for segment, tokens in found.items()}


def test_tags_belong_to_their_segment_and_the_end_of_turn_to_the_answer(processor):
    batch = ScaleCollator(processor)([row("<think>look again</think><answer>red</answer>")])
    assert parts(processor, batch) == {1: "<think>look again</think>", 2: "<answer>red</answer><|im_end|>"}


def test_text_between_behind_and_before(processor):
    response = "so <think>look</think> hence <answer>red</answer> two"
    batch = ScaleCollator(processor)([row(response)])
    assert parts(processor, batch) == {
        0: "so",
        1: " <think>look</think> hence ",
        2: "<answer>red</answer> two<|im_end|>",
    }


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("next", {1: "<think>look", 2: "</think> so <answer>red</answer><|im_end|>"}),
        ("none", {1: "look so ", 2: "red<|im_end|>", 0: "<think></think><answer></answer>"}),
    ],
)
def test_tags_may_count_elsewhere(processor, tags, expected):
    batch = ScaleCollator(processor, tags=tags)([row("<think>look</think> so <answer>red</answer>")])
    assert parts(processor, batch) == expected


@pytest.mark.parametrize(
    ("tags", "expected"),
    [("own", [1, 1, 1, 1, 2, 2, 2]), ("next", [1, 1, 2, 2, 2, 2, 2]), ("none", [0, 1, 1, 0, 0, 2, 2])],
)
def test_a_token_that_begins_a_closing_tag_decides_to_close(tags, expected):
    """Tokenizers such as Qwen's hold ".</" as one token."""
    pieces = ["<think>", "a", ".</", "think>", "<answer>", "b", "<end>"]
    response = "".join(pieces[:-1])

    class Pieces:
        bos_token, eos_token, eos_token_id = None, "<end>", 6

        def __call__(self, text, **_):
            offsets, at = [], 0
            for piece in pieces:
                offsets.append((at, at + len(piece)))
                at += len(piece)
            assert text == "".join(pieces)
            return {"offset_mapping": offsets, "input_ids": list(range(7))}

    one = read_row({"id": "r", "prompt": "", "completion": response}, index=None)
    segments = (THINK_ANSWER[0], SegmentSpec("answer", "<answer>"))
    rendered = Rendered(response + "<end>", 0, "")
    found = token_targets(Pieces(), rendered, row=one, segments=segments, end_ids=frozenset({6}), tags=tags)
    assert found.segments == expected


@pytest.mark.parametrize(
    ("arm", "trace"), [("scale", "<think>look</think>"), ("tags-next", "<think>look"), ("tags-none", "look")]
)
def test_the_arms_of_a_comparison_count_tags_where_they_say(processor, tmp_path, arm, trace):
    """From the arm's recipe through the trainer's settings to the segments of a batch."""
    config = ScaleSFTConfig(str(tmp_path), use_cpu=True, report_to="none", **ARMS[arm].recipe)
    batch = make_collator(processor, config)([row("<think>look</think><answer>red</answer>")])
    assert parts(processor, batch)[1] == trace


def test_labels_are_shifted_once(processor):
    batch = ScaleCollator(processor)([row("<think>a</think><answer>b</answer>")])
    ids, labels = batch["input_ids"][0], batch["shift_labels"][0]
    trained = (labels != -100).nonzero().flatten()
    assert torch.equal(labels[trained], ids[trained + 1])
    assert ids[trained[-1] + 1] == processor.tokenizer.eos_token_id
    # Qwen's newline behind the end of the turn is in the row and not trained.
    assert trained[-1] + 2 == len(ids) - 1
    assert labels[-1] == -100
    assert batch["shift_segment_ids"][0, -1] == 0


@pytest.mark.parametrize("pictures", [0, 1, 2])
def test_ids_are_those_of_the_chat_template(processor, pictures):
    one = row("<think>look</think><answer>red</answer>", pictures=pictures)
    batch = ScaleCollator(processor)([one])
    contents = [
        dict(part, **({"image": PICTURE} if part["type"] == "image" else {})) for part in one["prompt"][0]["content"]
    ]
    messages = [{"role": "user", "content": contents}, *one["completion"]]
    expected = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert parts(processor, batch)[1] == "<think>look</think>"


def test_the_pictures_of_each_row_are_what_the_model_gets(processor):
    """Pixels of the real pictures, in the order of the rows: not blank ones, nor another row's."""
    colours = [(200, 30, 30), (20, 180, 60), (10, 40, 220)]
    pictures = [Image.new("RGB", (16, 16), colour) for colour in colours]
    response = "<think>a</think><answer>b</answer>"
    rows = [row(response, images=pictures[:1]), row(response, pictures=2, images=pictures[1:])]
    found = ScaleCollator(processor)(rows)["pixel_values"]
    wanted = torch.cat([processor.image_processor(images=[p], return_tensors="pt")["pixel_values"] for p in pictures])
    assert torch.equal(found, wanted)
    assert len({tuple(patches[0].tolist()) for patches in wanted.chunk(3)}) == 3


def test_rows_of_different_length_are_padded_on_the_right_and_untrained_there(processor):
    rows = [row("<think>a</think><answer>b</answer>"), row("<think>a b c d e f g h</think><answer>b</answer>")]
    batch = ScaleCollator(processor, pad_to_multiple_of=16)(rows)
    assert batch["input_ids"].shape[1] % 16 == 0
    padding = batch["attention_mask"] == 0
    assert padding[0].sum() > padding[1].sum()
    assert bool((batch["shift_labels"][padding] == -100).all())
    assert parts(processor, batch, 0) == {1: "<think>a</think>", 2: "<answer>b</answer><|im_end|>"}


def test_tags_of_several_tokens_and_tokens_that_straddle(processor):
    """Tags that the tokenizer does not know: a token across a boundary goes to the segment of its first character."""
    segments = [SegmentSpec("plan", "[[plan]]", "[[/plan]]"), SegmentSpec("end", "[[end]]", None)]
    collator = ScaleCollator(processor, segments=segments)
    response = "[[plan]]look[[/plan]][[end]]red"
    tokens = processor.tokenizer(response)["input_ids"]
    assert len(processor.tokenizer("[[plan]]")["input_ids"]) > 2
    found = parts(processor, collator([row(response)]))
    assert found[1] + found[2] == response + "<|im_end|>"
    assert found[1].startswith("[[plan]]look[[/plan]]"[: len(found[1])])
    assert len(tokens) > 8
    boundary = len("[[plan]]look[[/plan]]")
    offsets = processor.tokenizer(response, return_offsets_mapping=True)["offset_mapping"]
    expected = sum(start < boundary for start, _ in offsets)
    assert int((collator([row(response)])["shift_segment_ids"] == 1).sum()) == expected


def test_odd_text_keeps_its_segments(processor):
    think, answer = "naïve 漢字 🙂 \u200b ñ\tx", "Größe — 3,5 €"
    batch = ScaleCollator(processor)([row(f"<think>{think}</think><answer>{answer}</answer>")])
    assert parts(processor, batch) == {1: f"<think>{think}</think>", 2: f"<answer>{answer}</answer><|im_end|>"}


def test_a_tag_inside_the_think_is_text(processor):
    response = "<think>maybe <answer>blue</answer> no</think><answer>red</answer>"
    batch = ScaleCollator(processor)([row(response)])
    assert parts(processor, batch)[2] == "<answer>red</answer><|im_end|>"


def test_a_template_that_prefills_think(processor):
    own = tiny_processor()
    own.chat_template = CHAT_TEMPLATE.replace(
        "<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>{% endif %}"
    )
    batch = ScaleCollator(own)([row("<think>look</think><answer>red</answer>")])
    # What is pre-filled is never generated, so it is not trained; the rest of the think is.
    assert parts(own, batch) == {1: "look</think>", 2: "<answer>red</answer><|im_end|>"}


@pytest.mark.parametrize(
    ("tail", "response", "expected"),
    [
        ("<think>\nOkay,", "<think>\nOkay, look</think><answer>red</answer>", {1: " look</think>"}),
        ("<think>\n\n</think>\n\n", "<think>\n\n</think>\n\n<answer>red</answer>", {}),
    ],
)
def test_a_template_that_writes_more_than_a_tag(tail, response, expected):
    """It once counted as a template that changes the response."""
    own = tiny_processor()
    own.chat_template = CHAT_TEMPLATE.replace("assistant\n{% endif", f"assistant\n{tail}{{% endif")
    batch = ScaleCollator(own)([row(response)])
    assert parts(own, batch) == expected | {2: "<answer>red</answer><|im_end|>"}


def test_a_template_that_strips_the_think_is_refused(processor):
    own = tiny_processor()
    own.chat_template = CHAT_TEMPLATE.replace("{{ part['text'] }}", "{{ part['text'].split('</think>')[-1] }}")
    with pytest.raises(ConfigError, match=r"record r: the chat template changes the response.*<think>"):
        ScaleCollator(own)([row("<think>look</think><answer>red</answer>")])


def test_a_template_that_ends_no_turn_is_refused(processor):
    own = tiny_processor()
    own.chat_template = CHAT_TEMPLATE.replace("<|im_end|>\n", "\n")
    with pytest.raises(ConfigError, match="no end-of-turn token"):
        ScaleCollator(own)([row("<think>look</think><answer>red</answer>")])


def test_the_end_of_turn_token_inside_a_response_is_refused(processor):
    with pytest.raises(DataError, match=r"record r: the response holds the end-of-turn token"):
        ScaleCollator(processor)([row("<think>look <|im_end|> again</think><answer>red</answer>")])


def test_malformed_responses(processor):
    with pytest.raises(SegmentError, match="record r: the response has no <answer>"):
        ScaleCollator(processor)([row("<think>look</think>")])
    batch = ScaleCollator(processor, require_segments=False)([row("<think>look</think>")])
    assert parts(processor, batch) == {1: "<think>look</think><|im_end|>"}


def test_lengths_are_counted_as_they_come_out(processor):
    from balanced_thinking.data.families import image_token_counter
    from balanced_thinking.data.images import image_size
    from balanced_thinking.data.rowcheck import read_row

    collator, count = ScaleCollator(processor), image_token_counter(processor)
    for example in tiny_examples(6):
        one = to_trl_row(example)
        read = read_row(one, index=0)
        sizes = [image_size(image, record="r") for image in read.images]
        assert collator.count_tokens(read, count(sizes)) == int(collator([one])["attention_mask"].sum())


def test_plain_strings_are_prompt_and_completion_without_a_template(processor):
    one = {"id": "r", "prompt": "Q: which? A: ", "completion": "<think>look</think><answer>red</answer>"}
    batch = ScaleCollator(processor)([one])
    assert parts(processor, batch) == {1: "<think>look</think>", 2: "<answer>red</answer><|im_end|>"}
    assert processor.tokenizer.decode(batch["input_ids"][0]).startswith("Q: which? A: <think>")
