"""The parser and the matching rules of docs/method.md, case by case."""

import random
from decimal import Decimal

import pytest

from balanced_thinking.core.answers import (
    MALFORMED_KINDS,
    ParsedResponse,
    answers_match,
    check_reference,
    inner_spans,
    normalise_text,
    parse_number,
    parse_response,
)
from balanced_thinking.core.segments import LLAVA_COT, THINK_ANSWER, SegmentSpec, scan_segments, tags_of, without_lead
from balanced_thinking.errors import EvaluationError

# (response, think, answer, malformed)
RESPONSES = [
    ("<think>t</think><answer>B</answer>", "t", "B", None),
    ("<think> t </think> <answer> Final Answer:B </answer>", "t", "B", None),
    ("<think>t</think>\n<answer>final answer: 7 dogs</answer>\n", "t", "7 dogs", None),
    ("<think>t</think><answer>Answer: Answer: B</answer>", "t", "Answer: B", None),
    ("<think>t</think><answer>**Final Answer:** B</answer>", "t", "B", None),
    ("<think>t</think><answer>The answer: B</answer>", "t", "The answer: B", None),
    ("<think></think><answer>B</answer>", "", "B", None),
    ("hm <think>t</think> so <answer>B</answer> done", "t", "B", None),
    ("<think>a <answer>C</answer> no</think><answer>B</answer>", "a <answer>C</answer> no", "B", None),
    ("<think>a <think> b</think><answer>B</answer>", "a <think> b", "B", None),
    ("<think>a <answer> b</think><answer>B</answer>", "a <answer> b", "B", None),
    ("<think>t</think><answer>line 1\nline 2</answer>", "t", "line 1\nline 2", None),
    ("<think>t</think><answer>the <think> tag</answer>", "t", "the <think> tag", None),
    ("<think>t</think><answer>the </think> tag</answer>", "t", "the </think> tag", None),
    # no-think
    ("B", None, "B", "no-think"),
    ("  Final Answer: B\n", None, "B", "no-think"),
    ("", None, "", "no-think"),
    ("<answer>B</answer>", None, "B", "no-think"),
    ("<answer>B", None, "B", "no-think"),
    ("<answer></answer>", None, "", "no-think"),
    ("t</think><answer>B</answer>", None, "B", "no-think"),
    ("<answer>C</answer></think><answer>B</answer>", None, "B", "no-think"),
    ("B</answer>", None, None, "no-think"),
    ("</think>", None, None, "no-think"),
    ("<Think>t</Think><Answer>B</Answer>", None, "<Think>t</Think><Answer>B</Answer>", "no-think"),
    ("< think>t</think >", None, "< think>t</think >", "no-think"),
    # unclosed-think
    ("<think>t", "t", None, "unclosed-think"),
    ("<think>", "", None, "unclosed-think"),
    ("<think>t<answer>B</answer>", "t", "B", "unclosed-think"),
    ("<think>t<answer>B", "t", "B", "unclosed-think"),
    ("<answer>B</answer><think>t", "t", "B", "unclosed-think"),
    ("<think>t</thin", "t</thin", None, "unclosed-think"),
    # no-answer
    ("<think>t</think>", "t", None, "no-answer"),
    ("<think>t</think> B", "t", None, "no-answer"),
    ("<think>t <answer>B</answer></think>", "t <answer>B</answer>", None, "no-answer"),
    ("<think>t</think>B</answer>", "t", None, "no-answer"),
    # unclosed-answer
    ("<think>t</think><answer>B", "t", "B", "unclosed-answer"),
    ("<think>t</think><answer>", "t", "", "unclosed-answer"),
    ("<think>t</think><answer> Final Answer: B is", "t", "B is", "unclosed-answer"),
    # empty-answer
    ("<think>t</think><answer></answer>", "t", "", "empty-answer"),
    ("<think>t</think><answer> \n </answer>", "t", "", "empty-answer"),
    ("<think>t</think><answer>Final Answer:</answer>", "t", "", "empty-answer"),
    ("<think>t</think><answer></answer><answer>B</answer>", "t", "", "empty-answer"),
    # duplicate
    ("<think>t</think><answer>B</answer><answer>C</answer>", "t", "B", "duplicate"),
    ("<think>t</think><think>u</think><answer>B</answer>", "t", "B", "duplicate"),
    ("<answer>C</answer><think>t</think><answer>B</answer>", "t", "B", "duplicate"),
    ("<think>t</think><answer>B</answer><answer>", "t", "B", "duplicate"),
    ("<think>t</think><answer>B</answer></answer>", "t", "B", "duplicate"),
    ("<think>t</think></think><answer>B</answer>", "t", "B", "duplicate"),
    ("<think>t</think><answer>B<answer>B</answer>", "t", "B<answer>B", "duplicate"),
    ("<think>t</think><answer>B</answer><think>u</think>", "t", "B", "duplicate"),
    ("<think>t</think><answer><answer>B</answer>", "t", "<answer>B", "duplicate"),
    ("</answer><think>t</think><answer>B</answer>", "t", "B", "duplicate"),
    # order
    ("<answer>B</answer><think>t</think>", "t", None, "order"),
    ("so <answer>B</answer> since <think>t</think> ends", "t", None, "order"),
]


@pytest.mark.parametrize(("text", "think", "answer", "malformed"), RESPONSES)
def test_response_is_read(text, think, answer, malformed):
    assert parse_response(text) == ParsedResponse(think, answer, malformed)


def test_every_kind_is_covered():
    assert {row[3] for row in RESPONSES} - {None} == set(MALFORMED_KINDS)


@pytest.mark.parametrize(
    ("text", "prefix", "expected"),
    [
        ("t</think><answer>B</answer>", "<think>\n", ParsedResponse("t", "B", None)),
        ("<think>t</think><answer>B</answer>", "<think>\n", ParsedResponse("<think>t", "B", None)),
        ("<answer>B</answer>", "<think>\n\n</think>\n\n", ParsedResponse("", "B", None)),
        ("never closed", "<think>", ParsedResponse("never closed", None, "unclosed-think")),
        ("B", "Answer: ", ParsedResponse(None, "B", "no-think")),
    ],
)
def test_prefix_of_the_template_counts_as_written(text, prefix, expected):
    assert parse_response(text, prefix) == expected


def test_spans_hold_what_is_inside_the_tags():
    text = "<think>ab</think><answer>c</answer>"
    assert {name: text[start:end] for name, (start, end) in inner_spans(text).items()} == {"think": "ab", "answer": "c"}
    assert inner_spans("nothing") == {}


def test_parser_takes_any_string_and_agrees_with_itself():
    dice = random.Random(0)
    pieces = [
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "B",
        " ",
        "\n",
        "Final Answer:",
        "\ud800",
        "\x00",
        "é",
        "<",
    ]
    for _ in range(3000):
        text = "".join(dice.choice(pieces) for _ in range(dice.randrange(9)))
        parsed = parse_response(text)
        assert parsed.malformed is None or parsed.malformed in MALFORMED_KINDS
        if parsed.malformed is None:
            assert parsed.think is not None
            assert parsed.answer
        for start, end in inner_spans(text).values():
            assert 0 <= start <= end <= len(text)


CHOICES = ("a dog", "a cat", "The Eiffel Tower", "3")
# (prediction, reference letter, expected)
CHOICE_CASES = [
    *[
        (form, "B", True)
        for form in ("B", "b", "(B)", "[b]", "{B}", "B.", "B:", "B)", " B \n", "( B )", "（Ｂ）", "B .")
    ],
    *[(form, "B", True) for form in ("B. a dog", "B: a dog", "(B) a dog", "B) x", "B.a dog", "a cat", "A Cat.", "cat")],
    *[(form, "B", False) for form in ("A", "BC", "B dog", "B or C", "the answer is B", "AB", "1", "β", "В")],
    *[(form, "A", True) for form in ("a dog", "dog", "the dog", "A DOG!", "a", "A. a cat")],
    ("A dog", "A", True),
    ("A cat", "A", False),
    ("A bird", "A", False),
    ("eiffel  tower", "C", True),
    ("«The Eiffel Tower»", "C", True),
    ("3", "D", True),
    ("three", "D", False),
    ("E", "A", False),
    ("(E)", "D", False),
    ("", "A", False),
    (" \u200b\ufeff ", "A", False),
    (None, "A", False),
    (".", "A", False),
    ("()", "A", False),
]


@pytest.mark.parametrize(("prediction", "reference", "expected"), CHOICE_CASES)
def test_choice(prediction, reference, expected):
    assert answers_match(prediction, reference, kind="choice", choices=CHOICES) is expected


@pytest.mark.parametrize(
    ("prediction", "reference", "choices", "expected"),
    [
        ("(c)", "C", None, True),
        ("dog", "C", None, False),
        ("Z", "Z", None, True),
        ("B", "(b)", None, True),
        ("E. coli", "B", ("x", "E. coli", "y", "z", "w"), True),  # a choice's text wins over a letter in front of it
        ("A.I.", "B", ("human", "A.I."), True),
        ("b", "A", ("b", "a"), False),  # a lone letter is a letter, even where a choice is one
        ("b", "B", ("b", "a"), True),
        ("same", "B", ("same", "same", "other"), True),  # two choices of one text
        ("same", "A", ("same", "same", "other"), True),
        ("+", "A", ("+", "-"), True),
        ("-", "A", ("+", "-"), False),
        ("?", "B", ("!", "?"), True),
        ("cat", "a cat", ("a dog", "a cat"), True),  # a reference given as text
        ("B", "a cat", ("a dog", "a cat"), True),
        # choices that the rule for texts would not tell apart
        ("-3", "B", ("-3", "3"), False),
        ("3", "B", ("-3", "3"), True),
        ("\u22123", "A", ("-3", "3"), True),
        ("-0.22", "D", ("-0.22", "-0.27", "0.27", "0.22"), False),
        ("-0.22.", "A", ("-0.22", "-0.27", "0.27", "0.22"), True),
        ("FF", "C", ("ff", "FF", "Ff", "Ee"), False),
        ("Ff", "C", ("ff", "FF", "Ff", "Ee"), True),
        ("Ff.", "C", ("ff", "FF", "Ff", "Ee"), True),
        ("'FF'", "B", ("ff", "FF", "Ff", "Ee"), False),  # as a text it could be any of three
        ("10²", "B", ("102", "10²"), True),
        ("10²", "A", ("102", "10²"), False),
        ("A dog.", "A", ("dog", "cat"), True),
        ("B. same", "A", ("same", "same"), False),  # it names a letter
        # several letters name no choice
        ("(B) is incorrect. The correct answer is (A).", "B", None, False),
        ("(A) or (B)", "A", ("x", "y"), False),
        ("(A) 18.95\n(B) 18.92\n(C) -18.95", "A", ("18.95", "18.92", "-18.95"), False),
        ("A. 18.95\nB. 18.92", "A", ("18.95", "18.92"), False),
        ("(A) dog, so (A)", "A", ("dog", "cat"), True),
        ("B. P(A) is larger", "B", ("one", "two"), True),
        ("B. a cat (E)", "B", ("a dog", "a cat"), True),  # there is no choice E
        ("A. Vitamin (B)", "A", ("Vitamin (B)", "none"), True),  # the choice's own text
    ],
)
def test_choice_without_or_with_odd_choices(prediction, reference, choices, expected):
    assert answers_match(prediction, reference, kind="choice", choices=choices) is expected


NUMBERS = [
    *[
        (form, "21")
        for form in ("21", "21.0", "21.", "+21", " 21\n", "2.1e1", "021", "twenty-one", "Twenty One", "21 %")
    ],
    *[(form, "21") for form in ("$21", "€ 21", "21€", "₹21.00", "21%", "twenty\u2013one", "TWENTY-ONE.", "２１", "٢١")],
    *[(form, "1234") for form in ("1,234", "1,234.", "1234.00", "$1,234.0", "1，234", "1234,", "+1,234")],
    *[(form, "1234567.5") for form in ("1,234,567.5", "12,34,567.5", "€1,234,567.50")],
    ("-$1,234", "-1234"),
    *[(form, "-5") for form in ("-5", "\u22125", "\u22125.0", "\uff0d5", "\u20135", "-$5", "$-5")],
    *[(form, "0") for form in ("0", "-0", "zero", "0.000", ".0", "0e5")],
    *[(form, "100") for form in ("one hundred", "hundred", "a hundred", "1e2", "100.")],
    (".5", "0.5"),
    ("0.1", "0.10000"),
]


@pytest.mark.parametrize(("prediction", "reference"), NUMBERS)
def test_equal_numbers(prediction, reference):
    assert answers_match(prediction, reference, kind="number")
    assert answers_match(reference, prediction, kind="number")


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [
        ("22", "21"),
        ("0.1", "0.10000000000000000001"),
        ("5", "-5"),
        ("5 apples", "5"),
        ("there are 5", "5"),
        ("5²", "52"),
        ("1_000", "1000"),
        ("1/2", "0.5"),
        ("50%", "0.5"),
        ("nan", "1"),
        ("inf", "1"),
        ("Infinity", "1"),
        ("1e99999", "1"),
        ("two hundred", "200"),
        ("hundred one", "101"),
        ("twentyone", "21"),
        ("zero-one", "1"),
        ("1.2.3", "1.23"),
        ("--5", "5"),
        ("3,4", "34"),  # a decimal comma, or two numbers
        ("1,5", "15"),
        ("1,2345", "12345"),
        ("1234,567", "1234567"),
        ("1,234.5,6", "1234.56"),
        ("1,,234", "1234"),
        ("%", "0"),
        ("$", "0"),
        (",", "0"),
        (".", "0"),
        ("", "0"),
        (None, "0"),
        ("\u4e00", "1"),
        ("V", "5"),
        ("0x10", "16"),
    ],
)
def test_unequal_numbers(prediction, reference):
    assert not answers_match(prediction, reference, kind="number")


def test_all_number_words():
    ones = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    assert [parse_number(word) for word in ones] == [Decimal(i) for i in range(13)]
    spelt = {
        str(parse_number(f"{ten}{mark}{one}")) for ten in ("thirty", "ninety") for one in ones[1:10] for mark in "- "
    }
    assert spelt == {str(n) for n in (*range(31, 40), *range(91, 100))}
    assert parse_number("ninety ten") is None


TEXTS = [
    ("Red", "red"),
    ("the  red\tdog", "A red dog."),
    ("“Red!”", "red"),
    ("ﬁre", "fire"),
    ("STRASSE", "straße"),
    ("Café", "cafe\u0301"),
    ("Ａｂｃ", "abc"),
    ("red\u00a0dog", "red dog"),
    ("\ufeffred\u200b", "red"),
    ("(the dog)", "dog"),
    ('the "dog"', "dog"),
    ("¿sí?", "sí"),
    ("a", "A"),
    ("...", "..."),
    ("C++", "c++"),
    ("(-3 m)", "\u22123 m"),
    ("- red", "red"),
    ("\u201c.5 g\u201d", ".5 g"),
    ("10² m", "10^2 m"),
    ("H₂O", "H2O"),
    ("90°.", "90°"),
    ("well\u2010known", "well-known"),
    ("赤い", "赤い。"),
]


@pytest.mark.parametrize(("prediction", "reference"), TEXTS)
def test_equal_texts(prediction, reference):
    assert answers_match(prediction, reference, kind="text")
    assert answers_match(reference, prediction, kind="text")


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [
        ("red dog", "dog"),
        ("reddog", "red dog"),
        ("the the dog", "dog"),
        ("...", "!!!"),
        ("", "."),
        ("   ", "red"),
        (None, "red"),
        ("c", "c++"),
        ("no", "not"),
        ("theatre", "atre"),
        ("10 mV", "-10 mV"),
        ("10 mV", "\u221210 mV"),
        ("5 g", ".5 g"),
        ("F", "F#"),
        ("5 points", "5 points %"),
        ("10²", "102"),
        ("the -3", "3"),
        ("andy", "dy"),
    ],
)
def test_unequal_texts(prediction, reference):
    assert not answers_match(prediction, reference, kind="text")


@pytest.mark.parametrize("kind", ["choice", "number", "text"])
def test_no_prediction_raises(kind):
    reference = {"choice": "A", "number": "7", "text": "dog"}[kind]
    dice = random.Random(1)
    odd = [
        "\ud800",
        "\x00",
        "٣",
        "½",
        "²",
        "𝟚",
        "e",
        "E",
        ".",
        "-",
        "+",
        "(",
        "B",
        "，",
        "\u202e",
        "߀",
        "🜁",
        "hundred",
        " ",
    ]
    for _ in range(2000):
        prediction = "".join(dice.choice(odd) for _ in range(dice.randrange(6)))
        assert answers_match(prediction, reference, kind=kind, choices=("dog", "cat")) in (True, False)
    assert not answers_match("9" * 100_000, reference, kind=kind, choices=("dog", "cat"))
    assert not answers_match("(" * 100_000, reference, kind=kind, choices=("dog", "cat"))


@pytest.mark.parametrize(
    ("reference", "kind", "choices", "told"),
    [
        ("A", "letter", None, "choice, number, text"),
        ("", "text", None, "empty"),
        ("seven-ish", "number", None, "not a number"),
        ("E", "choice", ("x", "y"), "2 choices"),
        ("dog", "choice", None, "not a letter"),
    ],
)
def test_impossible_references_are_refused(reference, kind, choices, told):
    with pytest.raises(EvaluationError, match=told):
        check_reference(reference, kind=kind, choices=choices)
    with pytest.raises(EvaluationError, match=told):
        answers_match("A", reference, kind=kind, choices=choices)


def test_normalised_text_is_stable():
    for text in ("The “Red”  Dog!", "ﬁre", "...", "a", "An apple"):
        assert normalise_text(normalise_text(text)) == normalise_text(text)


STAGES = "<SUMMARY>s</SUMMARY>\n<CAPTION>c</CAPTION>\n<REASONING>r</REASONING>\n<CONCLUSION>Answer: B</CONCLUSION>"


@pytest.mark.parametrize(
    ("text", "answer", "malformed"),
    [
        (STAGES, "B", None),
        (STAGES.removesuffix("</CONCLUSION>"), "B", "unclosed-answer"),
        (STAGES.replace("</REASONING>", ""), "B", "unclosed-think"),
        (STAGES.split("<CONCLUSION>", maxsplit=1)[0], None, "no-answer"),
        ("<CONCLUSION>B</CONCLUSION>", "B", "no-think"),
        (STAGES.replace("<CAPTION>c</CAPTION>", ""), "B", "no-think"),
        (STAGES.replace("<CAPTION>", "<CAPTION>x</CAPTION><CAPTION>"), "B", "duplicate"),
        (STAGES.replace("Answer: B", " "), "", "empty-answer"),
        (STAGES + "<CONCLUSION>C</CONCLUSION>", "B", "duplicate"),
        (STAGES + "</SUMMARY>", "B", "duplicate"),
        ("B", "B", "no-think"),
        ("<think>t</think><answer>B</answer>", "<think>t</think><answer>B</answer>", "no-think"),
    ],
)
def test_other_segments_are_read_as_trace_and_answer(text, answer, malformed):
    parsed = parse_response(text, segments=LLAVA_COT)
    assert (parsed.answer, parsed.malformed) == (answer, malformed)
    if text == STAGES:
        assert parsed.think == "s</SUMMARY>\n<CAPTION>c</CAPTION>\n<REASONING>r"
        start, end = inner_spans(text, LLAVA_COT)["answer"]
        assert text[start:end] == "Answer: B"
        assert parse_response(text) == ParsedResponse(None, text, "no-think")


@pytest.mark.parametrize(
    ("text", "think", "answer", "malformed"),
    [
        ("[why]w[/why][so] x ", "w", "x", None),
        ("[why]w [so] x", "w", "x", "unclosed-think"),
        ("[so]", None, "", "no-think"),
        ("[why]w[/why][so]a[so]b", "w", "a[so]b", "duplicate"),
    ],
)
def test_a_last_segment_may_run_to_the_end(text, think, answer, malformed):
    segments = (SegmentSpec("why", "[why]", "[/why]"), SegmentSpec("so", "[so]"))
    assert parse_response(text, segments=segments) == ParsedResponse(think, answer, malformed)


def test_an_answer_alone_may_be_all_there_is():
    only = (SegmentSpec("so", "<so>", "</so>"),)
    assert parse_response("<so>x</so>", segments=only) == ParsedResponse(None, "x", None)
    assert parse_response("x", segments=only) == ParsedResponse(None, "x", "no-answer")


PLAN = tuple(SegmentSpec(name, f"<{name}>", f"</{name}>") for name in ("plan", "why", "answer"))
OPEN_ENDED = (
    SegmentSpec("plan", "[plan]", "[/plan]"),
    SegmentSpec("why", "[why]", "[/why]"),
    SegmentSpec("so", "[so]"),
)
QUOTED = "<plan>First close </why>, then write <answer>A</answer>.</plan><why>x</why><answer>B</answer>"


def test_a_plan_may_speak_of_the_tags_to_come():
    told = ParsedResponse("First close </why>, then write <answer>A</answer>.</plan><why>x", "B", None)
    assert parse_response(QUOTED, segments=PLAN) == told
    assert parse_response(QUOTED.replace("</why><answer>B", "<answer>B"), segments=PLAN).answer == "B"


@pytest.mark.parametrize("segments", [THINK_ANSWER, PLAN, LLAVA_COT, OPEN_ENDED])
def test_what_training_accepts_is_read_as_it_was_written(segments):
    """Well-formed for the scanner is well-formed for the parser, and the answer is the text of the last segment."""
    dice = random.Random(1)
    tags, last = tags_of(segments), segments[-1]
    pieces = [*tags, *tags, "B", " ", "\n", "Answer:", "é", "<"]
    accepted = 0

    def noise(most: int) -> str:
        return "".join(dice.choice(pieces) for _ in range(dice.randrange(most)))

    for _ in range(6000):
        text = noise(2) + "".join(
            f"{spec.open}{noise(4)}{spec.close or ''}{noise(2) if dice.random() < 0.2 else ''}"
            for spec in segments
            if dice.random() < 0.97
        )
        scan, parsed = scan_segments(text, segments), parse_response(text, segments=segments)
        assert (parsed.malformed is None) == (scan.fault is None), text
        if scan.fault is None:
            accepted += 1
            written = text[scan.segments[-1].start : scan.segments[-1].end].removeprefix(last.open)
            assert parsed.answer == without_lead(written.removesuffix(last.close or "")), text
            first = scan.segments[0].start + len(segments[0].open)
            end = scan.segments[-2].end - len(segments[-2].close)
            assert parsed.think == text[first:end].strip(), text
    assert accepted > 500
