"""``core.segments``: spans by hand, every kind of fault and its precedence, and the way from characters to tokens."""

import pickle

import pytest

from balanced_thinking.core.segments import (
    TAGS,
    THINK_ANSWER,
    Segment,
    SegmentSpec,
    check_specs,
    find_segments,
    locate_segments,
    parse_segments,
    scan_segments,
    segment_of_characters,
    token_starts,
)
from balanced_thinking.errors import ConfigError, SegmentError

LLAVA_COT = tuple(
    SegmentSpec(name.lower(), f"<{name}>", f"</{name}>") for name in ("SUMMARY", "CAPTION", "REASONING", "CONCLUSION")
)
OPEN_ENDED = (SegmentSpec("think", "<think>", "</think>"), SegmentSpec("answer", "Answer:"))


def spans(text, segments=THINK_ANSWER):
    return {segment.name: text[segment.start : segment.end] for segment in find_segments(text, segments)}


def test_offsets_by_hand():
    # 7 + 3 + 8 = 18 characters of think, then 8 + 1 + 9 = 18 of answer.
    assert find_segments("<think>2+2</think><answer>4</answer>") == [
        Segment("think", 0, 18),
        Segment("answer", 18, 36),
    ]


@pytest.mark.parametrize(
    ("text", "think", "answer"),
    [
        ("<think>a</think><answer>b</answer>", "<think>a</think>", "<answer>b</answer>"),
        ("<think> a </think> <answer> b </answer>", "<think> a </think>", "<answer> b </answer>"),
        ("\n<think>a\nb</think>\n\n<answer>c</answer>\n", "<think>a\nb</think>", "<answer>c</answer>"),
        ("<think></think><answer>b</answer>", "<think></think>", "<answer>b</answer>"),
        ("x<think>a</think>y<answer>b</answer>z", "<think>a</think>", "<answer>b</answer>"),
        ("<think>ä😀</think><answer>é</answer>", "<think>ä😀</think>", "<answer>é</answer>"),
        # Between a tag and its closing tag, other tags are plain text.
        (
            "<think><answer>x</answer></think><answer>b</answer>",
            "<think><answer>x</answer></think>",
            "<answer>b</answer>",
        ),
        ("<think><think>a</think><answer>b</answer>", "<think><think>a</think>", "<answer>b</answer>"),
        ("<think><answer></think><answer>b</answer>", "<think><answer></think>", "<answer>b</answer>"),
        ("<think>a</answer></think><answer>b</answer>", "<think>a</answer></think>", "<answer>b</answer>"),
        ("<think>a</think><answer><think>b</answer>", "<think>a</think>", "<answer><think>b</answer>"),
        ("<think>a</think><answer>b</think></answer>", "<think>a</think>", "<answer>b</think></answer>"),
        # Tags are matched exactly.
        ("<Think><think>a</think><answer>b</answer>", "<think>a</think>", "<answer>b</answer>"),
    ],
)
def test_well_formed_responses(text, think, answer):
    assert spans(text) == {"think": think, "answer": answer}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("no-think", ""),
        ("no-think", "four"),
        ("no-think", "<answer>4</answer>"),
        ("no-think", "<Think>a</Think><answer>4</answer>"),
        ("no-think", "a</think><answer>4</answer>"),
        ("no-think", "< think>a</think><answer>4</answer>"),
        ("unclosed-think", "<think>a"),
        ("unclosed-think", "<think>a<answer>4</answer>"),
        ("unclosed-think", "<think>a</Think><answer>4</answer>"),
        ("unclosed-think", "<answer>4</answer><think>a"),
        ("no-answer", "<think>a</think>"),
        ("no-answer", "<think>a</think>4"),
        ("no-answer", "<think>a<answer>4</answer></think>"),
        ("no-answer", "<think>a</think>4</answer>"),
        ("unclosed-answer", "<think>a</think><answer>4"),
        ("unclosed-answer", "<think>a</think><answer>"),
        ("unclosed-answer", "<think>a</think><answer>4</answer"),
        ("empty-answer", "<think>a</think><answer></answer>"),
        ("empty-answer", "<think>a</think><answer> \n\t</answer>"),
        ("duplicate", "<think>a</think><answer>4</answer><answer>5</answer>"),
        ("duplicate", "<think>a</think><think>b</think><answer>4</answer>"),
        ("duplicate", "<think>a</think><answer>4</answer><answer>5"),
        ("duplicate", "<answer>4</answer><think>a</think><answer>4</answer>"),
        # A closing tag of nothing, and an answer that starts twice.
        ("duplicate", "<think>a</think><answer>4</answer></answer>"),
        ("duplicate", "<think>a</think></think><answer>4</answer>"),
        ("duplicate", "</answer><think>a</think><answer>4</answer>"),
        ("duplicate", "<think>a</think><answer><answer>4</answer>"),
        ("empty-answer", "<think>a</think><answer>Final Answer: </answer>"),
        ("order", "<answer>4</answer><think>a</think>"),
        ("order", "<answer>4</answer>\n<think></think>"),
    ],
)
def test_each_fault_has_its_kind(kind, text):
    with pytest.raises(SegmentError) as caught:
        find_segments(text)
    assert caught.value.kind == kind
    assert caught.value.remedy
    assert scan_segments(text).fault.kind == kind


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        # Each text has the named fault and one that stands behind it in the order of precedence.
        ("no-think", "<answer>"),
        ("no-think", "<answer></answer>"),
        ("no-think", "<answer>4</answer><answer>5</answer>"),
        ("unclosed-think", "<think>a<answer>"),
        ("unclosed-think", "<think>a<think>b<answer>4</answer>"),
        ("no-answer", "<think>a</think><think>b</think>"),
        ("unclosed-answer", "<think>a</think><think>b</think><answer>4"),
        ("empty-answer", "<think>a</think><answer></answer><answer>4</answer>"),
        ("empty-answer", "<answer></answer><think>a</think>"),
        ("duplicate", "<answer>4</answer><answer>5</answer><think>a</think>"),
        # An answer that is not closed is not empty for that.
        ("duplicate", "<answer>4</answer><think>a</think><answer>5"),
        ("empty-answer", "<answer>4</answer><think>a</think><answer> </answer>"),
        ("no-think", "<answer>4</answer></think>"),
        ("duplicate", "<answer>4</answer><think>a</think></think>"),
    ],
)
def test_of_several_faults_the_first_in_precedence_is_named(kind, text):
    assert scan_segments(text).fault.kind == kind


def test_the_message_says_what_is_wrong():
    with pytest.raises(SegmentError, match=r"<answer> is never closed by </answer>; close it"):
        find_segments("<think>a</think><answer>4")
    with pytest.raises(SegmentError, match=r"<answer> occurs 2 times; keep one"):
        find_segments("<think>a</think><answer>4</answer><answer>4</answer>")
    with pytest.raises(SegmentError, match=r"<answer> occurs 2 times; keep one"):
        find_segments("<think>a</think><answer>4<answer>4</answer>")
    with pytest.raises(SegmentError, match=r"</think> stands where no <think> is open; take it out"):
        find_segments("<think>a</think></think><answer>4</answer>")
    with pytest.raises(SegmentError, match=r"in the order answer, think; put them as think, answer"):
        find_segments("<answer>4</answer><think>a</think>")


@pytest.mark.parametrize(
    ("required", "text", "kind"),
    [
        ((), "", None),
        ((), "four", None),
        ((), "<answer>4</answer>", None),
        (("answer",), "<answer>4</answer>", None),
        (("answer",), "<think>a</think>", "no-answer"),
        (("think",), "<think>a</think>", None),
        (("think",), "<answer>4</answer>", "no-think"),
        # What is not required must still be right if it is there.
        ((), "<think>a", "unclosed-think"),
        (("answer",), "<think>a<answer>4</answer>", "unclosed-think"),
        ((), "<answer></answer>", "empty-answer"),
        ((), "<answer>4</answer><answer>4</answer>", "duplicate"),
        ((), "<answer>4</answer><think>a</think>", "order"),
        (None, "<answer>4</answer>", "no-think"),
    ],
)
def test_required_says_what_must_be_there(required, text, kind):
    fault = scan_segments(text, THINK_ANSWER, required).fault
    assert (fault and fault.kind) == kind


def test_an_unknown_required_name_is_refused():
    with pytest.raises(ConfigError, match="'reply' is not among the segments think, answer"):
        find_segments("", THINK_ANSWER, ("reply",))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("four", []),
        ("<answer>4</answer>", [("answer", 0, 18)]),
        ("<think>a", [("think", 0, 8)]),
        ("<think>a<answer>4</answer>", [("think", 0, 26), ("answer", 8, 26)]),
        ("<think>a</think>4<answer>5", [("think", 0, 16), ("answer", 17, 26)]),
        ("<answer>4</answer><answer>5</answer>", [("answer", 0, 18)]),
        ("<answer>4</answer><think>a</think>", [("answer", 0, 18), ("think", 18, 34)]),
    ],
)
def test_lenient_location_takes_what_there_is(text, found):
    assert locate_segments(text) == [Segment(*one) for one in found]


def test_a_segment_without_closing_tag_runs_to_the_end():
    text = "<think>a</think>\nAnswer: 4 <think> 5"
    assert spans(text, OPEN_ENDED) == {"think": "<think>a</think>", "answer": "Answer: 4 <think> 5"}


@pytest.mark.parametrize(
    ("text", "kind"),
    [("<think>a</think>", "no-answer"), ("<think>a</think>Answer: ", "empty-answer"), ("Answer: 4", "no-think")],
)
def test_faults_without_closing_tag(text, kind):
    assert scan_segments(text, OPEN_ENDED).fault.kind == kind


def test_the_four_segments_of_llava_cot():
    text = "<SUMMARY>s</SUMMARY>\n<CAPTION>c</CAPTION>\n<REASONING>r</REASONING>\n<CONCLUSION>B</CONCLUSION>"
    assert list(spans(text, LLAVA_COT)) == ["summary", "caption", "reasoning", "conclusion"]
    assert spans(text, LLAVA_COT)["conclusion"] == "<CONCLUSION>B</CONCLUSION>"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("<SUMMARY></SUMMARY><CAPTION></CAPTION><REASONING></REASONING><CONCLUSION></CONCLUSION>", "empty-conclusion"),
        ("<SUMMARY>s</SUMMARY><REASONING>r</REASONING><CONCLUSION>B</CONCLUSION>", "no-caption"),
        ("<SUMMARY>s</SUMMARY><CAPTION>c<REASONING>r</REASONING><CONCLUSION>B</CONCLUSION>", "unclosed-caption"),
        ("<CAPTION>c</CAPTION><SUMMARY>s</SUMMARY><REASONING>r</REASONING><CONCLUSION>B</CONCLUSION>", "order"),
    ],
)
def test_kinds_carry_the_segments_own_names(text, kind):
    assert scan_segments(text, LLAVA_COT).fault.kind == kind


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", "<a>", "</a>"), "needs a name and an opening tag"),
        (("a", "", "</a>"), "needs a name and an opening tag"),
        (("a", "  ", "</a>"), "needs a name and an opening tag"),
        (("a", None, "</a>"), "needs a name and an opening tag"),
        ((1, "<a>", "</a>"), "needs a name and an opening tag"),
        (("a", "<a>", ""), "closing tag must be text or None"),
        (("a", "<a>", 3), "closing tag must be text or None"),
        (("a", "<a>", "<a>"), "are both '<a>'"),
    ],
)
def test_specs_that_make_no_sense(arguments, message):
    with pytest.raises(ConfigError, match=message):
        SegmentSpec(*arguments)


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ((), "at least one segment"),
        ((SegmentSpec("a", "<a>", "</a>"), SegmentSpec("a", "<b>", "</b>")), "name 'a' is used twice"),
        ((SegmentSpec("a", "<a>", "</a>"), SegmentSpec("b", "<a>", "</b>")), "tag '<a>' is used twice"),
        ((SegmentSpec("a", "<a>", "</x>"), SegmentSpec("b", "<b>", "</x>")), "tag '</x>' is used twice"),
        ((SegmentSpec("a", "<a>", "<b>"), SegmentSpec("b", "<b>", "</b>")), "tag '<b>' is used twice"),
        ((SegmentSpec("a", "<a>"), SegmentSpec("b", "<b>", "</b>")), "only the last segment may have no closing tag"),
        ((SegmentSpec("a", "[x", "x]"), SegmentSpec("b", "[xy", "yx]")), r"tag '\[x' is part of the tag '\[xy'"),
        ((SegmentSpec("a", "**", "--"), SegmentSpec("b", "**Answer:")), r"'\*\*' is part of the tag '\*\*Answer:'"),
        ((SegmentSpec("a", "<a>", "EndAnswer:"), SegmentSpec("b", "Answer:")), "'Answer:' is part of .* told apart"),
        ((SegmentSpec("a", "Answer:", "EndAnswer:"),), "'Answer:' is part of the tag 'EndAnswer:'"),
    ],
)
def test_specs_that_contradict_each_other(specs, message):
    with pytest.raises(ConfigError, match=message):
        check_specs(specs)
    with pytest.raises(ConfigError, match=message):
        find_segments("x", specs)


def test_check_specs_gives_a_tuple():
    assert check_specs(list(THINK_ANSWER)) == THINK_ANSWER


def test_specs_and_segments_survive_pickling():
    assert pickle.loads(pickle.dumps((THINK_ANSWER, Segment("a", 0, 1)))) == (THINK_ANSWER, Segment("a", 0, 1))


def ids_of(text: str, tags: str = "own", segments=THINK_ANSWER) -> str:
    """The segment ids of the characters and of the end of the turn, as digits."""
    ids = segment_of_characters(text, locate_segments(text, segments), segments, tags)
    assert len(ids) == len(text) + 1
    return "".join(map(str, ids))


def test_characters_by_hand():
    # before: 0; think and what follows it: 1; answer and everything behind it, the end of the turn too: 2
    text = "ab<think>c</think>\n<answer>d</answer>ef"
    assert ids_of(text) == "0" * 2 + "1" * 17 + "2" * 21


@pytest.mark.parametrize(
    ("before", "own", "none"),
    [(" ", "1", "0"), ("\n\n", "11", "00"), ("ab ", "001", "000"), (" ab", "000", "000"), ("", "", "")],
)
def test_white_space_before_the_first_segment_belongs_to_it(before, own, none):
    text = "<think>c</think><answer>d</answer>"
    rest = "1" * 16 + "2" * 19
    assert ids_of(before + text) == own + rest
    assert ids_of(before + text, "next") == own + "1" * 8 + "2" * 27
    assert ids_of(before + text, "none").startswith(none + "0" * 7 + "1")
    assert ids_of(before + "<answer>d</answer>") == own.replace("1", "2") + "2" * 19  # without a trace


def test_a_closing_tag_may_count_in_what_it_leads_to():
    text = "ab<think>c</think>\n<answer>d</answer>ef"
    assert ids_of(text, "next") == "0" * 2 + "1" * 8 + "2" * 30


def test_tags_may_count_nowhere():
    text = "ab<think>c</think>\n<answer>d</answer>ef"
    assert ids_of(text, "none") == "0" * 2 + "0" * 7 + "1" + "0" * 8 + "1" + "0" * 8 + "2" + "0" * 9 + "2" * 3


@pytest.mark.parametrize("tags", TAGS)
def test_characters_of_a_text_without_segments_are_all_zero(tags):
    assert ids_of("abcd", tags) == "00000"
    assert ids_of("", tags) == "0"


def test_characters_follow_the_order_of_names_not_of_the_text():
    text = "<answer>b</answer><think>a</think>"
    assert ids_of(text) == "2" * 18 + "1" * 17
    assert ids_of(text, "next") == "2" * 9 + "1" * 26
    assert ids_of(text, "none") == "0" * 8 + "2" + "0" * 16 + "1" + "0" * 8 + "1"


def test_an_unclosed_think_ends_where_the_answer_starts():
    text = "<think>a<answer>b</answer>"
    assert ids_of(text) == ids_of(text, "next") == "1" * 8 + "2" * 19
    assert ids_of(text, "none") == "0" * 7 + "1" + "0" * 8 + "2" + "0" * 9 + "2"


def test_empty_and_open_segments_keep_their_tags_apart():
    text = "<think></think><answer>b"
    assert ids_of(text, "next") == "1" * 7 + "2" * 18
    assert ids_of(text, "none") == "0" * 23 + "22"


def test_every_closing_tag_but_the_last_moves_on():
    segments = (SegmentSpec("a", "[a]", "[/a]"), SegmentSpec("b", "[b]", "[/b]"), SegmentSpec("c", "[c]"))
    text = "[a]x[/a][b]y[/b] [c]z"
    assert ids_of(text, "own", segments) == "1" * 8 + "2" * 9 + "3" * 5
    assert ids_of(text, "next", segments) == "1" * 4 + "2" * 8 + "3" * 10
    assert ids_of(text, "none", segments) == "0001" + "0000" + "0002" + "0000" + "2" + "00033"


@pytest.mark.parametrize(
    ("text", "offsets", "starts"),
    [
        ("ab cd", [(0, 2), (2, 5)], [0, 2]),
        # Offsets without the leading blank: the gap belongs to the token behind it.
        ("ab cd", [(0, 2), (3, 5)], [0, 2]),
        ("ab \n cd", [(0, 2), (5, 7)], [0, 2]),
        (" ab", [(1, 3)], [0]),
        # Several tokens of one character share its offsets.
        ("é!", [(0, 1), (0, 1), (1, 2)], [0, 0, 1]),
        # A gap of other characters is left alone.
        ("abXcd", [(0, 2), (3, 5)], [0, 3]),
        ("ab", [], []),
    ],
)
def test_token_starts(text, offsets, starts):
    assert token_starts(text, offsets) == starts


def test_a_token_across_a_border_belongs_to_its_first_character():
    text = "<think>a</think><answer>b</answer>"
    ids = segment_of_characters(text, find_segments(text))
    offsets = [(0, 7), (7, 8), (8, 17), (17, 24), (24, 34)]  # the third token holds the first "<" of <answer>
    assert [ids[start] for start in token_starts(text, offsets)] == [1, 1, 1, 2, 2]


def test_a_real_tokenizer_agrees_with_the_characters():
    from tiny import tiny_tokenizer

    text = "<think>It is red, or green?\n ä</think>\n<answer>a red one</answer>"
    encoded = tiny_tokenizer()(text, return_offsets_mapping=True)
    starts = token_starts(text, encoded["offset_mapping"])
    ids = segment_of_characters(text, find_segments(text))
    tokens = [ids[start] for start in starts]
    assert tokens == sorted(tokens)
    assert starts[tokens.index(2)] == text.index("<answer>")


def test_long_degenerate_text_is_scanned_in_good_time():
    text = "<think>" * 20_000
    assert scan_segments(text).fault.kind == "unclosed-think"


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (None, ["think", "answer"]),
        ("think-answer", ["think", "answer"]),
        ("llava-cot", ["summary", "caption", "reasoning", "conclusion"]),
        ([["a", "<a>", "</a>"], ("b", "<b>", None)], ["a", "b"]),
        (' [["a", "<a>", null]]', ["a"]),
    ],
)
def test_segments_as_a_setting(value, names):
    assert [spec.name for spec in parse_segments(value)] == names


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("llava_cot", "'llava_cot' are unknown; choose think-answer, llava-cot, or give a JSON list"),
        ("[[", "are unknown"),
        ("[" * 100_000, r"^segments '\[{60}\.\.' are unknown"),
        ({"a": 1}, "must be a list"),
        ([["a", "<a>"]], r"each entry is \[name, opening tag, closing tag\], not \['a', '<a>'\]"),
        ([7], "each entry is"),
        ([["a", "<a>", None], ["b", "<b>", None]], "only the last segment may have no closing tag"),
    ],
)
def test_settings_that_are_no_segments(value, message):
    with pytest.raises(ConfigError, match=message):
        parse_segments(value)
