"""easy-VQA: published questions, traces that follow from the questions' answers and agree with the pictures."""

import random
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from balanced_thinking.errors import ConfigError
from balanced_thinking.evaluation.benchmarks import BENCHMARKS
from balanced_thinking.evaluation.benchmarks.easy_vqa import COLOURS, Facts, _facts, load, write_trace
from balanced_thinking.evaluation.benchmarks.icons import shortcut_baselines


@pytest.fixture(scope="module")
def splits():
    return {name: load(name) for name in ("train", "val", "test")}


def test_splits_share_no_picture_and_hold_what_was_published(splits):
    sizes = {name: len(examples) for name, examples in splits.items()}
    assert sizes == {"train": 36_631, "val": 1_944, "test": 9_673}
    pictures = {name: {example.images[0] for example in examples} for name, examples in splits.items()}
    assert not pictures["train"] & pictures["val"]
    assert len(pictures["train"] | pictures["val"]) == 4_000
    assert len(pictures["test"]) == 1_000
    assert {example.answer for example in splits["test"]} <= {"yes", "no", "circle", "rectangle", "triangle", *COLOURS}


def test_the_question_alone_answers_two_thirds(splits):
    """67.0 %, which a model must beat to have looked at the picture."""
    found = shortcut_baselines(splits["train"], splits["test"])
    assert found["question_only"] == pytest.approx(0.670, abs=0.001)


def test_facts_follow_from_the_questions():
    first = {"is there a blue shape?": "no", "what shape is in the image?": "rectangle",
             "is there not a red shape?": "yes", "is no circle present?": "yes"}  # fmt: skip
    questions, answers = [*first, "what color is the triangle?"], [*first.values(), "teal"]
    facts = _facts(questions, answers, [1, 1, 1, 1, 2])
    assert facts[1].known == {"shape": "rectangle"}
    assert facts[1].excluded == {"shape": {"circle"}, "color": {"blue", "red"}}
    assert facts[2].known == {"shape": "triangle", "color": "teal"}


def test_what_is_left_when_all_others_are_ruled_out():
    facts = _facts(["is there a circle?", "does the image contain a triangle?"], ["no", "no"], [0, 0])
    assert facts[0].known == {"shape": "rectangle"}


def test_traces_agree_with_answers_and_never_give_them_for_yes_or_no(splits):
    for example in random.Random(0).sample(splits["train"], 2_000):
        words = example.think.lower().replace(".", " ").replace(",", " ").split()
        if example.answer in ("yes", "no"):
            assert "the answer is" not in example.think
        else:
            assert example.answer in words, example
    kinds = Counter(example.source for example in splits["test"])
    assert set(kinds) == {"easy-vqa/yes-no", "easy-vqa/color", "easy-vqa/shape"}


def test_known_colours_are_those_of_the_pictures(splits):
    """Traces see no pixels; the pictures must agree with them all the same (grey levels apart from colours)."""
    hues = {"red": 0, "green": 1, "blue": 2}
    checked = 0
    for example in splits["test"][:3_000]:
        colour = next((word for word in hues if word == example.answer), None)
        if colour:
            assert colour in example.think
            pixels = np.asarray(Image.open(example.images[0]).convert("RGB"), dtype=int).reshape(-1, 3)
            spread = pixels.max(1) - pixels.min(1)
            assert pixels[spread.argmax()].argmax() == hues[colour], example
            checked += 1
    assert checked > 100


def test_the_same_example_every_time(splits):
    assert load("val")[7] == splits["val"][7]
    text = write_trace("is there a red shape?", Facts({"color": "blue"}), random.Random(1))
    assert text == write_trace("is there a red shape?", Facts({"color": "blue"}), random.Random(1))
    with pytest.raises(ConfigError, match="no split 'dev'"):
        load("dev")
    assert BENCHMARKS["easy-vqa"].load is load


def test_captions_say_what_the_questions_tell_of_each_picture(splits):
    captions = BENCHMARKS["easy-vqa-captions"].load("train")
    assert len(captions) == 3_394
    assert len({example.images for example in captions}) == len(captions)
    assert {example.think for example in captions} == {None}
    told = {example.images: example.answer for example in captions}
    for example in splits["train"]:
        if example.answer not in ("yes", "no"):
            assert example.answer in told.get(example.images, example.answer).split()
    assert not told.keys() & {example.images for example in BENCHMARKS["easy-vqa-captions"].load("val")}
