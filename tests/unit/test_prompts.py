"""``data.prompts``: the exact words of prompts and responses, and the way back from a prompt to its question."""

import string
import subprocess
import sys

import pytest

from balanced_thinking.core.segments import find_segments
from balanced_thinking.data.example import Example, Turn
from balanced_thinking.data.prompts import build_completion, build_prompt, render_question, split_choices
from balanced_thinking.errors import DataError


def example(**changes):
    fields = {
        "id": "a1",
        "source": "s",
        "images": ("x.png",),
        "question": "Which colour?",
        "choices": ("red", "blue"),
        "think": "It looks red.",
        "answer": "A",
        "kind": "choice",
    }
    return Example(**{**fields, **changes})


@pytest.mark.parametrize(
    ("question", "choices", "text"),
    [
        ("Q?", None, "Q?"),
        ("Q?", [], "Q?"),
        ("Q?", ("red", "blue"), "Q?\nA. red\nB. blue"),
        ("Q?\n", ["red"], "Q?\n\nA. red"),
        ("", ["red", "blue"], "A. red\nB. blue"),
        ("Q?", ["  a ", ""], "Q?\nA.   a \nB. "),
        ("Q?", ["two\nlines", "b"], "Q?\nA. two\nlines\nB. b"),
    ],
)
def test_choices_stand_below_the_question(question, choices, text):
    assert render_question(question, choices) == text


@pytest.mark.parametrize(
    "question",
    [
        "Q?\nA. red\nB. blue",
        "Q?\nA) red\nB) blue",
        "Q?\n(A) red\n(B) blue",
        "Q?\nA: red\nB: blue",
        "Options:\n  A. red  \n  B. blue\nChoose one.",
        "Q?\n\nA. red\n\nB. blue\n",
    ],
)
def test_a_question_that_lists_its_choices_is_left_alone(question):
    assert render_question(question, ["red", "blue"]) == question


@pytest.mark.parametrize(
    "question",
    [
        "Q?\nA. red",  # not all
        "Q?\nA. red\nB. green",  # others
        "Q?\nB. blue\nA. red",  # another order
        "Is it A. red or B. blue?",  # not lines
        "Q?\nred\nblue",  # no letters
        "Q?\nB. red\nC. blue",
        "Q?\nA. reddish\nB. blue",
    ],
)
def test_a_question_that_does_not_list_exactly_its_choices_gets_them(question):
    assert render_question(question, ["red", "blue"]) == f"{question}\nA. red\nB. blue"


@pytest.mark.parametrize(
    ("question", "choices"),
    [
        ("Which colour?", ["red", "blue"]),
        ("Which colour?\n", ["red", "blue"]),
        ("", ["red", "blue"]),
        ("Q?\nA. red", ["red", "blue"]),
        ("Q?", ["(", "a.b", "\\d+", "A. x", ""]),
        ("Q?", ["two\nlines", " spaced "]),
        ("Q?", ["same", "same"]),
        ("Q?", list(string.ascii_lowercase)),
        ("Is it A. red or B. blue?", ["red", "blue"]),
        ("Q with blanks  ", None),
    ],
)
def test_reading_a_prompt_back_gives_the_question(question, choices):
    assert split_choices(render_question(question, choices), choices) == question


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("Q?\n(A) red\n(B) blue", "Q?"),
        ("Q?\n\nA: red\nB: blue\n", "Q?"),
        ("Options:\nA) red\nB) blue", "Options:"),
        ("Q?\nA. red\nB. blue\nChoose one.", "Q?\nA. red\nB. blue\nChoose one."),
        ("Q?\nA. red", "Q?\nA. red"),
        ("Q?\nA. red\nB. green", "Q?\nA. red\nB. green"),
    ],
)
def test_only_a_list_at_the_end_is_taken_off(text, question):
    assert split_choices(text, ["red", "blue"]) == question


def test_there_are_letters_for_26_choices_and_no_more():
    assert render_question("Q?", [str(i) for i in range(26)]).endswith("\nZ. 25")
    with pytest.raises(DataError, match="27 choices, but only 26 letters"):
        render_question("Q?", [str(i) for i in range(27)])


def test_the_prompt_word_for_word():
    assert build_prompt(example(images=("a.png", b"bytes"))) == [
        {
            "role": "user",
            "content": [
                {"type": "image"},
                {"type": "image"},
                {"type": "text", "text": "Which colour?\nA. red\nB. blue"},
            ],
        }
    ]


def test_a_question_without_pictures_has_text_alone():
    prompt = build_prompt(example(images=(), choices=None, question="2+2?"))
    assert prompt == [{"role": "user", "content": [{"type": "text", "text": "2+2?"}]}]


@pytest.mark.parametrize("system", [None, ""])
def test_no_system_turn_by_default(system):
    assert [turn["role"] for turn in build_prompt(example(), system_prompt=system)] == ["user"]


def test_a_system_prompt_stands_first():
    first, second = build_prompt(example(), system_prompt="Think first.")
    assert first == {"role": "system", "content": [{"type": "text", "text": "Think first."}]}
    assert second == build_prompt(example())[0]


def response(**changes):
    (turn,) = build_completion(example(**changes))
    assert turn["role"] == "assistant"
    (part,) = turn["content"]
    assert part["type"] == "text"
    return part["text"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "<think>It looks red.</think><answer>A</answer>"),
        ({"think": None}, "<answer>A</answer>"),
        ({"think": ""}, "<think></think><answer>A</answer>"),
        ({"think": "a\nb"}, "<think>a\nb</think><answer>A</answer>"),
        ({"think": "I write <answer>B</answer>"}, "<think>I write <answer>B</answer></think><answer>A</answer>"),
    ],
)
def test_the_response_word_for_word(changes, text):
    assert response(**changes) == text


def test_a_response_is_well_formed():
    assert [segment.name for segment in find_segments(response())] == ["think", "answer"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"think": "a</think>b"}, "record a1, field think: the text holds </think> itself"),
        ({"answer": "a</answer>b"}, "record a1, field answer: the text holds </answer> itself"),
        ({"answer": "a<answer>b"}, "record a1, field answer: the text holds <answer> itself"),
        ({"answer": "Answer: "}, "record a1, field answer: the answer is empty"),
        ({"answer": ""}, "record a1, field answer: the answer is empty"),
        ({"answer": " \n"}, "record a1, field answer: the answer is empty"),
    ],
)
def test_what_would_be_malformed_is_refused(changes, message):
    with pytest.raises(DataError) as caught:
        build_completion(example(**changes))
    assert str(caught.value).startswith(message)


def test_it_needs_no_torch_nor_other_heavy_package():
    code = (
        "import sys, balanced_thinking.data.prompts\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'PIL', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_context_cannot_show_more_pictures_than_there_are():
    example = Example(
        "e", "s", ("a.png",), "Q?", None, None, "x", "text", (Turn("user", "1", 2), Turn("assistant", "y"))
    )
    with pytest.raises(DataError, match="record e, field images: its context shows 2 pictures, but it has 1"):
        build_prompt(example)
