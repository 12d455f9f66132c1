"""``data.formats.response``: think and answer out of a response in four ways, and answers in the form of their kind."""

import contextlib
import signal
from functools import partial

import pytest

from balanced_thinking.core.answers import answers_match, parse_response
from balanced_thinking.core.segments import LLAVA_COT, parse_segments
from balanced_thinking.data.formats.response import (
    ANSWER_FROM,
    answer_text,
    clean_answer,
    is_decimal,
    near_tags,
    split_response,
    split_segments,
    typed_answer,
)
from balanced_thinking.data.rowcheck import Place
from balanced_thinking.errors import DataError, SegmentError

PLACE = Place("r", "f.jsonl")
CHOICES = ("a cat", "a dog")
READERS_OF_TEXT = {
    "parse": parse_response,
    "parse-stages": partial(parse_response, segments=LLAVA_COT),
    "match-choice": partial(answers_match, reference="A", kind="choice", choices=CHOICES),
    "match-number": partial(answers_match, reference="1", kind="number"),
    "match-text": partial(answers_match, reference="x", kind="text"),
    "clean": clean_answer,
    "typed": partial(typed_answer, kind=None, choices=CHOICES, place=PLACE),
    "near-tags": near_tags,
    **{way: partial(split_response, answer_from=way, place=PLACE, field="f") for way in ANSWER_FROM},
}


@contextlib.contextmanager
def at_most(seconds):
    """A hang becomes a failure; no measure of speed."""

    def stop(*_):
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


@pytest.mark.parametrize(
    ("text", "think", "answer"),
    [
        ("<think>a</think><answer>b</answer>", "a", "b"),
        ("<think> a </think><answer> b </answer>", "a", "b"),
        ("<think> R </think><answer> Final Answer:B </answer>", "R", "B"),
        ("<think>a\n\nb</think>\n<answer>\nb c\n</answer>\n", "a\n\nb", "b c"),
        ("<answer>b</answer>", None, "b"),
        ("<think></think><answer>b</answer>", "", "b"),
        ("a</think><answer>b</answer>", "a", "b"),  # the opening tag was part of the prompt
        ("a</think><answer>the <think> tag</answer>", "a", "the <think> tag"),
        ("<think>see <answer>x</answer></think><answer>b</answer>", "see <answer>x</answer>", "b"),
        ("x<think>a</think>y<answer>b</answer>z", "a", "b"),
        ("<think>a</think><answer>the <think> tag</answer>", "a", "the <think> tag"),
    ],
)
def test_by_tag(text, think, answer):
    assert split_response(text, "tag", place=PLACE, field="completion") == (think, answer)


@pytest.mark.parametrize(
    ("text", "think", "answer"),
    [
        ("<think>a</think>It is \\boxed{7}.", "a", "7"),
        ("<think>\\boxed{1}</think>\\boxed{2} or \\boxed{3}", "\\boxed{1}", "3"),
        ("\\boxed{\\frac{1}{2}}", None, "\\frac{1}{2}"),
        ("\\boxed{a} \\boxed{b", None, "a"),
        ("<think>a</think><answer>\\boxed{ 9 }</answer>", "a", "9"),
    ],
)
def test_by_box(text, think, answer):
    assert split_response(text, "boxed", place=PLACE, field="completion") == (think, answer)


@pytest.mark.parametrize(
    ("text", "think", "answer"),
    [
        ("<think>a</think> b c ", "a", "b c"),
        ("<think>a</think>\n**Answer:** b", "a", "b"),
        ("four", None, "four"),
        ("a</think>b", "a", "b"),
        ("Answer: four", None, "four"),
        ("<think>a</think><answer> Final Answer: b </answer>", "a", "b"),
        ("<think>a</think>so <answer>b</answer>.", "a", "b"),
        ("<think>a <answer>c</answer></think>b", "a <answer>c</answer>", "b"),
    ],
)
def test_by_what_follows_the_trace(text, think, answer):
    assert split_response(text, "after_think", place=PLACE, field="completion") == (think, answer)


@pytest.mark.parametrize(("text", "think"), [("<think>a</think>whatever", "a"), ("whatever", None), ("", None)])
def test_by_field_only_the_trace_is_read(text, think):
    assert split_response(text, "field", place=PLACE, field="completion") == (think, None)


@pytest.mark.parametrize(
    ("answer_from", "text", "kind"),
    [
        ("tag", "<think>a", "unclosed-think"),
        ("boxed", "<think>a \\boxed{3}", "unclosed-think"),
        ("after_think", "<think>a", "unclosed-think"),
        ("field", "<think>a", "unclosed-think"),
        ("tag", "<think>a</think>b", "untagged-answer"),
        ("tag", "<think>a</think> ", "no-answer"),
        ("tag", "<think>a <answer>b</answer></think>", "answer-in-think"),
        ("tag", "<think>a <answer>b</answer></think>b", "answer-in-think"),
        ("after_think", "<think>a</think>so <answer>b", "unclosed-answer"),
        ("after_think", "<think>a</think>b</answer>", "no-answer"),
        ("tag", "", "no-answer"),
        ("tag", "<think>a</think><answer>b", "unclosed-answer"),
        ("tag", "<think>a</think><answer> </answer>", "empty-answer"),
        ("tag", "<think>a</think><answer>Final Answer: </answer>", "empty-answer"),
        ("tag", "<think>a</think><answer>b</answer><answer>c</answer>", "duplicate"),
        ("tag", "<think>a</think><answer>b</answer></answer>", "duplicate"),
        ("tag", "<think>a</think></think><answer>b</answer>", "duplicate"),
        ("tag", "<think>a</think><answer>b <answer>c</answer>", "duplicate"),
        ("tag", "<answer>b</answer><think>a</think>", "order"),
        ("boxed", "<think>\\boxed{1}</think>no box", "no-answer"),
        ("boxed", "\\boxed{}", "empty-answer"),
        ("after_think", "<think>a</think> ", "empty-answer"),
    ],
)
def test_faults_have_kind_place_and_remedy(answer_from, text, kind):
    with pytest.raises(SegmentError) as caught:
        split_response(text, answer_from, place=PLACE, field="completion")
    assert caught.value.kind == kind
    assert str(caught.value).startswith("f.jsonl, record r, field completion: ")
    assert caught.value.remedy


def test_a_missing_tag_leads_to_the_other_ways():
    with pytest.raises(
        SegmentError, match=r"only text behind </think>; read it with answer_from=after_think \(or boxed"
    ):
        split_response("<think>a</think>b", "tag", place=PLACE, field="completion")
    with pytest.raises(SegmentError, match="answer_from can also be boxed, after_think or field"):
        split_response("a", "tag", place=PLACE, field="completion")


@pytest.mark.parametrize(
    ("text", "way"),
    [
        ("<thinking>a</thinking><answer>b</answer>", "it has <thinking>; rename it to <think>, or name"),
        ("<Think>a</Think> <Answer>b</Answer>", "it has <Think> and <Answer>; rename them to <think> and <answer>, or"),
        ("<think>a</think><final_answer>b</final_answer>", "it has <final_answer>; rename it to <answer>, or name"),
        (
            "<chain of thought>a</chain of thought><answer>b</answer>",
            "it has <chain of thought>; rename it to <think>, or",
        ),
        ("<musings>a</musings><answer>b</answer>", None),
        ("<reasoning>a</reasoning>b", "it has <reasoning>; rename it to <think>"),
        ("<think>a</think><answer>in <reasoning>r</reasoning></answer>", None),
        ("<reasoning>never closed <answer>b</answer>", None),
        ("a <b>c</b>", None),
    ],
)
def test_tags_of_another_name_are_named_with_a_setting_that_reads_them(text, way):
    told = near_tags(text)
    assert (told is None) if way is None else told.startswith(way)
    if way is not None and ", or" in way:
        pasted = parse_segments(told.split("scale_segments '")[1].removesuffix("'"))
        assert split_segments(text, pasted, place=PLACE, field="completion") == ("a", "b")


def test_a_missing_answer_beside_another_trace_keeps_the_other_ways():
    with pytest.raises(SegmentError, match=r"rename it to <think>; .* answer_from can also be boxed"):
        split_response("<reasoning>a</reasoning>b", "tag", place=PLACE, field="completion")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("b", "b"),
        (" b\n", "b"),
        ("Final Answer:B", "B"),
        ("Final Answer: B", "B"),
        ("final answer :B", "B"),
        ("Answer: 3", "3"),
        ("**Answer:** 3", "3"),
        ("**Final Answer**: 3", "3"),
        ("The answer: 3", "The answer: 3"),
        ("Answer", "Answer"),
        ("Answers: 3", "Answers: 3"),
        ("", ""),
    ],
)
def test_a_leading_answer_label_is_removed(text, answer):
    assert clean_answer(text) == answer


@pytest.mark.parametrize(("value", "text"), [("a", "a"), (" a ", "a"), (3, "3"), (2.5, "2.5"), ("Answer: x", "x")])
def test_the_field_answer_as_text(value, text):
    assert answer_text(value, PLACE) == text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "the answer is empty; give it"),
        (True, "not bool"),
        (["a"], "not list"),
        ("", "the answer is empty"),
        (" ", "the answer is empty"),
        ("Answer:", "the answer is empty"),
    ],
)
def test_a_field_answer_that_cannot_be_used(value, message):
    with pytest.raises(DataError, match=message):
        answer_text(value, PLACE)


@pytest.mark.parametrize("text", ["0", "21", "-3", "+4", "−5", "1,234", "12,345,678.9", "0.5", ".5", "007"])
def test_decimal_numbers(text):
    assert is_decimal(text)


@pytest.mark.parametrize(
    "text", ["", "-", ".", "1.", "1/2", "1e5", "12,34", "one", "3 dogs", "5%", "$5", "1.2.3", "B", "²", "--1", "1 000"]
)
def test_what_is_no_decimal_number(text):
    assert not is_decimal(text)


@pytest.mark.parametrize(
    ("answer", "choices", "kind"),
    [
        ("B", ("x", "y"), "choice"),
        ("3", None, "number"),
        ("-1.5", None, "number"),
        ("dog", None, "text"),
        ("B", None, "text"),
    ],
)
def test_the_kind_is_inferred(answer, choices, kind):
    assert typed_answer(answer, None, choices=choices, place=PLACE) == (answer, kind)


@pytest.mark.parametrize("kind", ["number", "text"])
def test_a_kind_that_is_given_is_kept(kind):
    assert typed_answer("3", kind, choices=None, place=PLACE) == ("3", kind)
    assert typed_answer("3", kind, choices=("3", "4"), place=PLACE) == ("3", kind)


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        ("about 3", "number", "the reference answer 'about 3' is not a number; use kind 'text' for it"),
        ("\u200b", None, "the reference answer is empty"),
        ("\u200b", "number", "the reference answer is empty"),
    ],
)
def test_an_answer_that_nothing_could_match_is_refused_where_it_is_read(answer, kind, message):
    with pytest.raises(DataError, match=f"^f.jsonl, record r, field answer: {message}"):
        typed_answer(answer, kind, choices=None, place=PLACE)


def test_a_guessed_kind_refuses_no_answer():
    assert typed_answer("about 3", None, choices=None, place=PLACE) == ("about 3", "text")
    assert typed_answer("three", "number", choices=None, place=PLACE) == ("three", "number")


def test_an_unknown_kind_is_refused():
    with pytest.raises(DataError, match="field kind: unknown kind 'mcq'; use one of choice, number, text"):
        typed_answer("3", "mcq", choices=None, place=PLACE)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("[b]", "B"),
        ("B.", "B"),
        ("B:", "B"),
        ("(b).", "B"),
        ("a dog", "B"),
        ("A dog", "B"),
        ("a dog.", "B"),
        ("B. a dog", "B"),
        ("B: A dog", "B"),
        ("(B) a dog", "B"),
        ("B) a dog.", "B"),
        ("a cat", "A"),
    ],
)
def test_a_choice_becomes_its_letter(answer, letter):
    assert typed_answer(answer, None, choices=("a cat", "a dog"), place=PLACE) == (letter, "choice")


@pytest.mark.parametrize(("answer", "letter"), [("B", "B"), ("(d)", "D"), ("C. whatever", "C")])
def test_a_letter_without_choices(answer, letter):
    assert typed_answer(answer, "choice", choices=None, place=PLACE) == (letter, "choice")


def test_choices_that_are_letters_are_letters_only_where_it_is_said():
    """AI2D asks for the labels of a diagram: the text of one choice is the letter of another."""
    assert typed_answer("B", "choice", choices=("B", "A"), place=PLACE)[0] == "B"
    for answer in ("B. A", "A. B", "(A) B"):
        assert typed_answer(answer, None, choices=("B", "A"), place=PLACE)[0] == answer.strip("(")[0]
    assert typed_answer("A", None, choices=("A", "B"), place=PLACE)[0] == "A"
    with pytest.raises(
        DataError, match=r"'B' may be the letter of a choice or its text; write B\. A or A\. B, or add a col"
    ):
        typed_answer("B", None, choices=("B", "A"), place=PLACE)


@pytest.mark.parametrize("name", READERS_OF_TEXT)
@pytest.mark.parametrize(
    "unit", ["\n", " ", "\\boxed{", "}", "*", "A.\n", "(", "<answer>", "</think>", "answer: ", "1,"]
)
def test_no_text_takes_the_square_of_its_length(name, unit):
    """A model that never stops repeats one thing; before, 20,000 line breaks took minutes."""
    for before in ("", "A", "A. ", "<think>t</think><answer>"):
        for after in ("B", ".</answer>"):
            with contextlib.suppress(DataError), at_most(seconds=20):
                READERS_OF_TEXT[name](before + unit * (100_000 // len(unit)) + after)


def test_a_letter_beyond_the_choices_may_be_the_text_of_one():
    assert typed_answer("x", None, choices=("w", "x"), place=PLACE)[0] == "B"


@pytest.mark.parametrize("answer", ["C", "a bird", "B. a cat", "dog", "1", "a cat or a dog"])
def test_an_answer_that_is_no_choice(answer):
    with pytest.raises(DataError, match=r"field answer: the answer .* is none of the choices; the choices are 'a cat'"):
        typed_answer(answer, None, choices=("a cat", "a dog"), place=PLACE)


def test_a_text_that_two_choices_share_is_no_choice():
    with pytest.raises(DataError, match="none of the choices"):
        typed_answer("same", None, choices=("same", "same"), place=PLACE)
    assert typed_answer("B", None, choices=("same", "same"), place=PLACE)[0] == "B"


def test_words_without_choices_are_no_choice():
    with pytest.raises(DataError, match="without choices it must be a letter"):
        typed_answer("a dog", "choice", choices=None, place=PLACE)
