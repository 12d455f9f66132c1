"""``data.formats.trl`` and the pictures of records: every accepted form, every fault with its place and remedy."""

import json
import logging
from base64 import b64encode
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from balanced_thinking.core.segments import SegmentSpec
from balanced_thinking.data.example import Turn
from balanced_thinking.data.formats import FORMATS, trl
from balanced_thinking.data.formats.source import Record
from balanced_thinking.data.records import load_examples, to_dataset, to_trl_row
from balanced_thinking.errors import ConfigError, DataError, SegmentError

GOOD = "<think>It is red.</think><answer>red</answer>"


def text(value):
    return {"type": "text", "text": value}


IMAGE = {"type": "image"}


def user(content):
    return {"role": "user", "content": content}


def assistant(content=GOOD):
    return {"role": "assistant", "content": content}


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png", "images/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), (255, 0, 0)).save(tmp_path / name)
    return tmp_path


def load(folder, *rows, name="train.jsonl", **options):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return list(load_examples(path, **options))


def fault(folder, row, **options):
    with pytest.raises(DataError) as caught:
        load(folder, row, **options)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{folder / 'train.jsonl'}, record ")
    return line


# Forms ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [user("Q?"), assistant()], "image": "a.png"},
        {"messages": [user("Q?"), assistant()], "images": ["a.png"]},
        {"messages": [user([IMAGE, text("Q?")]), assistant([text(GOOD)])], "images": ["a.png"]},
        {"messages": [user([{"type": "image", "image": "a.png"}, text("Q?")]), assistant()]},
        {"prompt": [user("Q?")], "completion": [assistant()], "image": "a.png"},
        {"prompt": [user([IMAGE, text("Q?")])], "completion": [assistant([text(GOOD)])], "images": ["a.png"]},
        {"prompt": "Q?", "completion": GOOD, "images": ["a.png"]},
        {"prompt": "<image>\nQ?", "completion": GOOD, "images": "a.png"},
        {"prompt": "<image>Q?", "completion": GOOD, "image": "a.png"},
        {"prompt": [user("Q?\n<image>")], "completion": GOOD, "image": "a.png", "images": None},
    ],
)
def test_every_form_gives_the_same_example(folder, row):
    (example,) = load(folder, row)
    assert example.images == (str(folder / "a.png"),)
    assert (example.question, example.think, example.answer, example.kind) == ("Q?", "It is red.", "red", "text")
    assert (example.id, example.source, example.choices) == ("train-0", "train", None)


def test_a_row_without_pictures(folder):
    assert load(folder, {"prompt": "Q?", "completion": GOOD})[0].images == ()


def test_several_pictures_keep_their_order(folder):
    (example,) = load(folder, {"prompt": "Q?", "completion": GOOD, "images": ["b.png", "images/c.png", "a.png"]})
    assert [path.rsplit("/", 1)[1] for path in example.images] == ["b.png", "c.png", "a.png"]


def test_fields_of_the_record_are_taken(folder):
    row = {
        "id": 12,
        "source": "icons/count",
        "prompt": "How many?\nA. 2\nB. 3",
        "completion": "<think>t</think><answer>(b)</answer>",
        "choices": [2, "3"],
    }
    (example,) = load(folder, row)
    assert (example.id, example.source) == ("12", "icons/count")
    assert (example.question, example.choices, example.answer, example.kind) == ("How many?", ("2", "3"), "B", "choice")


@pytest.mark.parametrize("choices", [None, []])
def test_no_choices_is_an_open_question(folder, choices):
    assert load(folder, {"prompt": "Q?", "completion": GOOD, "choices": choices})[0].choices is None


def test_a_kind_of_the_record_wins(folder):
    row = {"prompt": "Q?", "completion": "<think>t</think><answer>7</answer>"}
    assert load(folder, row)[0].kind == "number"
    assert load(folder, {**row, "kind": "text"})[0].kind == "text"


def test_numbers_of_records_name_those_without_id(folder):
    row = {"prompt": "Q?", "completion": GOOD}
    assert [example.id for example in load(folder, row, {**row, "id": "x"}, row)] == ["train-0", "x", "train-2"]


def test_rows_without_a_response_are_read_for_evaluation(folder):
    row = {"prompt": [user([IMAGE, text("Q?")])], "images": ["a.png"], "answer": 3}
    (example,) = load(folder, row, on_missing="train")
    assert (example.think, example.answer, example.kind) == (None, "3", "number")
    assert load(folder, {"messages": [user("Q?")], "answer": "dog"}, on_missing="train")[0].answer == "dog"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"messages": [user("Q?")]}, "it has messages with roles"),
        ({"prompt": "Q?", "completion": "x"}, "it has prompt and completion"),
        ({"prompt": [user("Q?")], "completion": None}, "it has prompt and no completion"),
        ({"messages": []}, None),
        ({"messages": "x"}, None),
        ({"messages": [{"from": "human"}]}, None),
        ({"prompt": None}, None),
        ({"prompt": []}, None),
        ({"text": "x"}, None),
        ({}, None),
    ],
)
def test_sniffing(fields, reason, tmp_path):
    assert trl.sniff(Record(fields, tmp_path, 0, "row 0")) == reason


def test_every_format_offers_what_the_folder_promises():
    for name, reader in FORMATS.items():
        assert name
        assert callable(reader.sniff)
        assert callable(reader.read)
        assert {"id", "source"} <= set(reader.FIELDS)


# Think and answer -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer_from", "completion", "answer"),
    [
        (None, GOOD, "red"),
        ("tag", GOOD, "red"),
        ("boxed", "<think>It is red.</think>so \\boxed{blue}", "blue"),
        ("after_think", "<think>It is red.</think>\n\ngreen", "green"),
        ("field", "<think>It is red.</think>whatever", "yellow"),
        ("field", GOOD, "yellow"),
    ],
)
def test_where_the_answer_comes_from(folder, answer_from, completion, answer):
    row = {"prompt": "Q?", "completion": completion, "answer": "yellow"}
    (example,) = load(folder, row, answer_from=answer_from)
    assert (example.think, example.answer) == ("It is red.", answer)


def test_an_answer_that_differs_from_its_column_is_told(folder, caplog):
    rows = [{"prompt": "Q?", "completion": GOOD, "answer": answer} for answer in ("red", " red", "blue")]
    load(folder, *rows)
    (record,) = caplog.records
    assert "in 1 records the column answer differs from the answer in the response" in record.message


def test_a_column_that_spells_the_answer_otherwise_does_not_differ(folder, caplog):
    """Nor is it an error that the answer beside the one that is taken is of another kind."""
    row = {"prompt": "Q?", "completion": "<think>t</think><answer>3</answer>"}
    load(folder, row | {"answer": "3.0"}, row | {"answer": "three"})
    assert "differs" not in caplog.text
    load(folder, row | {"answer": "about 3"})
    assert "in 1 records the column answer differs" in caplog.text


@pytest.mark.parametrize(("completion", "kind"), [("<answer>x</answer>", "no-think"), ("<think>a", "unclosed-think")])
def test_on_missing_error_names_the_record(folder, completion, kind):
    with pytest.raises(SegmentError) as caught:
        load(folder, {"id": "q", "prompt": "Q?", "completion": completion})
    assert caught.value.kind == kind
    assert f"{folder / 'train.jsonl'}, record q (line 1)" in str(caught.value)


def test_on_missing_error_names_the_ways_out(folder):
    line = fault(folder, {"prompt": "Q?", "completion": "<answer>x</answer>"})
    assert 'the row has no reasoning trace; set on_missing to "train" (the answer alone) or "skip"' in line


def test_on_missing_train_keeps_the_answer(folder):
    good, bare = {"prompt": "Q?", "completion": GOOD}, {"prompt": "Q?", "completion": "<answer>x</answer>"}
    assert [example.think for example in load(folder, good, bare, on_missing="train")] == ["It is red.", None]


def test_on_missing_train_still_needs_an_answer(folder):
    assert "the response has no <answer>" in fault(folder, {"prompt": "Q?", "completion": "x"}, on_missing="train")


def test_on_missing_skip_leaves_them_out(folder):
    good, bare = {"prompt": "Q?", "completion": GOOD}, {"prompt": "Q?", "completion": "x"}
    assert len(load(folder, bare, good, bare, on_missing="skip")) == 1


def test_on_missing_skip_hides_no_other_fault(folder):
    row = {"prompt": "Q?", "completion": GOOD, "image": "none.png"}
    assert "no such picture" in fault(folder, row, on_missing="skip")


def test_turns_before_the_question_are_context(folder, caplog):
    """Each shows its own pictures."""
    said = [user("<image>\nWhat is it?"), assistant("A cat."), user("And <image>here?"), assistant()]
    (example,) = load(folder, {"messages": said, "images": ["a.png", "b.png"]})
    assert example.context == (Turn("user", "What is it?", 1), Turn("assistant", "A cat."))
    assert (example.question, example.think, example.answer) == ("And here?", "It is red.", "red")
    assert [Path(image).name for image in example.images] == ["a.png", "b.png"]
    assert "responses before the last are context and are not trained" in caplog.text
    assert "behind or between text" in caplog.text
    kinds = [[part["type"] for part in turn["content"]] for turn in to_trl_row(example)["prompt"]]
    assert kinds == [["image", "text"], ["text"], ["image", "text"]]


def test_which_turn_shows_a_picture_is_never_guessed(folder):
    row = {"messages": [user("What is it?"), assistant("A cat."), user("And here?"), assistant()], "image": "a.png"}
    line = fault(folder, row)
    assert "record line 1, field messages: nothing says which of 2 user turns shows the 1 picture; put" in line
    assert load(folder, {**row, "image": None})[0].images == ()


def test_a_mark_in_a_system_turn_moves_no_picture(folder):
    """A mark that belongs to no picture is text, though."""
    system = {"role": "system", "content": "Look at <image>."}
    row = {"messages": [system, user("Q?"), assistant()], "image": "a.png"}
    assert "a system turn holds an <image> mark; only the user can show pictures" in fault(folder, row)
    for asked, image in (("<image>Q?", "a.png"), ([IMAGE, text("Q?")], "a.png"), ("Q?", None)):
        (example,) = load(folder, {"messages": [system, user(asked), assistant()], "image": image})
        assert (example.question, len(example.images)) == ("Q?", image is not None)


def test_a_conversation_goes_through_trls_form_unchanged(folder):
    row = {"id": "c", "messages": [user("<image>One?"), assistant("x"), user("<image>Two?"), assistant()]}
    (example,) = load(folder, row | {"images": ["a.png", "b.png"]})
    assert load(folder, to_trl_row(example)) == [replace(example, source="train")]


PLAN = (SegmentSpec("plan", "[plan]", "[/plan]"), SegmentSpec("why", "[why]", "[/why]"), SegmentSpec("so", "[so]"))


def test_segments_of_ones_own_leave_the_response_as_it_is(folder):
    written = " [plan] Look. [/plan]\n[why] Red. [/why] [so] Answer: red"
    (example,) = load(folder, {"prompt": "Q?", "completion": written}, segments=PLAN)
    assert (example.think, example.answer, example.response) == ("Look.\n\nRed.", "red", written)
    (row,) = to_dataset([example])
    assert row["completion"][0]["content"][0]["text"] == written


@pytest.mark.parametrize(
    ("completion", "kind"),
    [("[why]w[/why][so]x", "no-plan"), ("[plan]p[why]w[/why][so]x", "unclosed-plan"), (GOOD, "no-plan")],
)
def test_a_response_without_these_segments_is_skipped_or_an_error(folder, completion, kind):
    rows = [
        {"prompt": "Q?", "completion": completion},
        {"prompt": "Q?", "completion": "[plan]p[/plan][why]w[/why][so]x"},
    ]
    with pytest.raises(SegmentError, match=r"train\.jsonl") as caught:
        load(folder, *rows, segments=PLAN)
    assert caught.value.kind == kind
    assert len(load(folder, *rows, segments=PLAN, on_missing="skip")) == 1


def test_an_answer_alone_is_the_last_segment(folder):
    """As an answer alone is ``<answer>..</answer>`` where segments are think and answer."""
    (example,) = load(folder, {"prompt": "Q?", "answer": "x"}, segments=PLAN, on_missing="train")
    assert (example.think, example.answer, example.response) == (None, "x", "[so]x")
    with pytest.raises(SegmentError, match="no reasoning trace"):
        load(folder, {"prompt": "Q?", "answer": "x"}, segments=PLAN)


def test_answers_of_another_form_can_be_taken_from_their_field(folder):
    """For evaluation and GRPO, which need no response."""
    row = {"prompt": "Q?", "completion": "<think>never closed", "answer": "red"}
    (example,) = load(folder, row, segments=PLAN, answer_from="field", on_missing="train")
    assert (example.answer, example.response) == ("red", "[so]red")


def test_a_good_response_stays_where_the_answer_comes_from_its_field(folder, caplog):
    """It was replaced by the answer alone, and nothing was said."""
    good = "[plan]p[/plan][why]w[/why][so]red"
    rows = [{"prompt": "Q?", "completion": good, "answer": answer} for answer in ("red", "blue")]
    examples = load(folder, *rows, segments=PLAN, answer_from="field")
    assert [(e.think, e.answer, e.response) for e in examples] == [("p\n\nw", a, good) for a in ("red", "blue")]
    assert "in 1 records the answer in the response differs from the column answer, which was taken" in caplog.text
    assert "other segments" not in caplog.text
    load(folder, *rows, rows[0] | {"completion": GOOD}, segments=PLAN, answer_from="field", on_missing="train")
    assert "in 1 records the response is of other segments, and its answer alone was taken" in caplog.text


def test_without_a_trace_asked_for_the_last_segment_will_do(folder):
    """As an answer without its trace does where segments are think and answer."""
    row = {"prompt": "Q?", "completion": "[why]w[/why][so]x"}
    (example,) = load(folder, row, segments=PLAN, on_missing="train")
    assert (example.think, example.answer, example.response) == ("w", "x", row["completion"])
    assert load(folder, to_trl_row(example), segments=PLAN, on_missing="train") == [replace(example, source="train")]
    (example,) = load(folder, {"prompt": "Q?", "answer": "x"}, segments=PLAN, on_missing="train")
    assert load(folder, to_trl_row(example), segments=PLAN, on_missing="train") == [replace(example, source="train")]


@pytest.mark.parametrize(
    ("completion", "on_missing", "ways"),
    [
        ("[why]w[/why][so]x", "error", 'on_missing "skip" leaves such rows out, "train" needs no trace'),
        ("[plan]p[/plan]x", "train", 'on_missing "skip" leaves such rows out, answer_from=field takes the answer'),
    ],
)
def test_a_response_without_these_segments_names_the_ways_out(folder, completion, on_missing, ways):
    assert ways in fault(folder, {"prompt": "Q?", "completion": completion}, segments=PLAN, on_missing=on_missing)


def test_an_empty_last_segment_is_a_fault(folder):
    with pytest.raises(SegmentError, match=r"\[so\] holds nothing") as caught:
        load(folder, {"prompt": "Q?", "completion": "[plan]p[/plan][why]w[/why][so] Answer: "}, segments=PLAN)
    assert caught.value.kind == "empty-so"


def test_tags_may_begin_and_end_with_white_space(folder):
    segments = [["why", "\n[why]", "[/why]"], ["so", "[so]", "[/so]\n"]]
    written = "\n[why]w[/why][so]x[/so]\n"
    (example,) = load(folder, {"prompt": "Q?", "completion": written}, segments=segments)
    assert load(folder, to_trl_row(example), segments=segments) == [replace(example, source="train")]


def test_segments_may_be_named(folder):
    with pytest.raises(SegmentError, match="the response has no <SUMMARY>"):
        load(folder, {"prompt": "Q?", "completion": GOOD}, segments="llava-cot")
    assert len(load(folder, {"prompt": "Q?", "completion": GOOD}, segments=None)) == 1


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (
            [{"role": "system", "content": [IMAGE, text("s")]}, user("1"), assistant("x"), user("2"), assistant()],
            "a system turn holds a picture",
        ),
        (
            [user([IMAGE, text("1")]), assistant("x"), user("the <image> tag?"), assistant()],
            "1 <image> mark in the text",
        ),
        ([user([IMAGE, text("1")]), assistant([]), user("2"), assistant()], "a turn before the question is empty"),
    ],
)
def test_pictures_stay_in_their_turn(folder, messages, message):
    assert message in fault(folder, {"messages": messages, "image": "a.png"})


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("<image>\nQ?", "Q?"),
        ("<image><image>\n<image>\nQ?", "Q?"),
        ("In <image>\nwe see\n<image>\nwhat?", "In \nwe see\nwhat?"),
    ],
)
def test_a_mark_in_the_middle_leaves_the_line_break(folder, written, read):
    images = ["a.png"] * written.count("<image>")
    assert load(folder, {"prompt": written, "completion": GOOD, "images": images})[0].question == read


@pytest.mark.parametrize(
    ("row", "note"),
    [
        ({"messages": [user("Q?"), assistant() | {"reasoning_content": "r"}]}, "reasoning_content of a message was"),
        ({"messages": [user("Q?"), assistant() | {"tool_calls": [{}]}]}, "tool_calls of a message was left out"),
        (
            {"messages": [user([{"type": "image", "image": "a.png", "max_pixels": 9}, text("Q?")]), assistant()]},
            "a size inside an image part was left out (set max_pixels for the whole run instead)",
        ),
        (
            {"messages": [user("Q?"), assistant() | {"loss": True, "reasoning_content": "r"}]},
            "reasoning_content of a message was left out",
        ),
        (
            {"messages": [user("Q?"), assistant("x ### The final answer is: y") | {"reasoning_content": "r"}]},
            "reasoning_content of a message was left out",
        ),
    ],
)
def test_what_no_format_reads_is_told(folder, row, note, caplog):
    load(folder, row)
    assert f"in 1 records {note}" in caplog.text


@pytest.mark.parametrize("column", ["video", "videos", "audio", "audios"])
def test_a_row_that_shows_more_than_pictures_is_refused(folder, column):
    row = {"prompt": "Q?", "completion": GOOD, column: ["a.mp4"]}
    assert f"field {column}: only pictures can be shown to the model; leave the row out" in fault(folder, row)
    load(folder, row | {column: []})


def test_a_mark_beside_the_part_that_it_repeats_is_taken_off(folder):
    said = [user([IMAGE, text("<image>1")]), assistant("x"), user("2"), assistant()]
    (example,) = load(folder, {"messages": said, "image": "a.png"})
    assert example.context[0] == Turn("user", "1", 1)


def test_another_place_of_the_answer_contradicts_segments(folder):
    with pytest.raises(ConfigError, match="with segments of your own it stands in the last, so"):
        load(folder, {"prompt": "Q?", "completion": "x"}, segments=PLAN, answer_from="boxed")


def test_a_system_turn_is_left_out_and_told(folder, caplog):
    row = {"messages": [{"role": "system", "content": "S"}, user("Q?"), assistant()]}
    assert load(folder, row)[0].question == "Q?"
    assert "in 1 records a system turn was left out" in caplog.text


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([IMAGE, text("Q?")], False),
        ([text("Q?")], False),
        ([text("Q?"), IMAGE], True),
        ([text("Q"), IMAGE, text("?")], True),
    ],
)
def test_pictures_that_move_are_told(folder, caplog, content, told):
    images = ["a.png"] if IMAGE in content else []
    (example,) = load(folder, {"messages": [user(content), assistant()], "images": images})
    assert example.question == "Q?"
    assert ("pictures behind or between text were moved to the front" in caplog.text) is told


# Faults ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "Q?"}, "field completion: neither completion nor answer; give the response"),
        ({"prompt": "Q?", "completion": 3}, "field completion: must be text or a list of messages, not int"),
        ({"prompt": [user("Q?")], "completion": [user("x")]}, "the completion does not end with an assistant turn"),
        ({"prompt": [user("Q?")], "completion": ["x"]}, "a message must be an object, not str"),
        ({"prompt": ["Q?"], "completion": GOOD}, "no known format has such records"),
        ({"prompt": "", "completion": GOOD}, "field prompt: the question is empty"),
        ({"prompt": "<image>", "completion": GOOD, "image": "a.png"}, "the question is empty"),
        ({"messages": [user("1"), user("2"), assistant()]}, "before the response are: user, user; user and assistant"),
        ({"messages": [assistant("x"), user("2"), assistant()]}, "before the response are: assistant, user"),
        (
            {"messages": [user("<image>1"), assistant("x"), user("2"), assistant()]},
            "1 <image> mark in the text but no pictures",
        ),
        (
            {
                "messages": [user("1"), assistant([{"type": "image"}, text("x")]), user("2"), assistant()],
                "image": "a.png",
            },
            "a response holds a picture",
        ),
        ({"messages": [assistant()]}, "the turns before the response are: none"),
        ({"messages": [user("Q?"), assistant(), user("more")]}, "the row has no reasoning trace"),
        ({"messages": [user("Q?")]}, "the row has no reasoning trace"),
        ({"messages": [user("Q?"), assistant([IMAGE])], "image": "a.png"}, "the response holds a picture"),
        ({"messages": [user([IMAGE, text("Q?")]), assistant()]}, "1 image placeholder but no pictures"),
        ({"messages": [user([text("Q?")]), assistant()], "image": "a.png"}, "no image placeholders but 1 picture"),
        ({"prompt": "<image><image>Q?", "completion": GOOD, "image": "a.png"}, "2 <image> marks in the text but 1 pic"),
        ({"prompt": "<image>Q?", "completion": GOOD}, "1 <image> mark in the text but no pictures"),
        ({"prompt": "Q?", "completion": GOOD, "choices": "AB"}, "field choices: choices must be a list of texts"),
        ({"prompt": "Q?", "completion": GOOD, "choices": [None]}, "choices must be a list of texts"),
        ({"prompt": "Q?", "completion": GOOD, "choices": ["x"] * 27}, "27 choices, but only 26 letters"),
        ({"prompt": "Q?", "completion": GOOD, "choices": ["blue", "pink"]}, "the answer 'red' is none of the choices"),
        ({"prompt": "Q?", "completion": GOOD, "kind": "mcq"}, "field kind: unknown kind 'mcq'"),
        ({"prompt": "Q?", "completion": GOOD, "answer": ["red"]}, "an answer must be text or a number, not list"),
        ({"prompt": "Q?", "completion": GOOD, "images": ["a.png", None]}, "field images[1]: the picture is missing"),
        ({"prompt": "Q?", "completion": GOOD, "images": [3]}, "a picture cannot be int"),
    ],
)
def test_faults_name_file_record_and_remedy(folder, row, message):
    assert message in fault(folder, {"id": "q7", **row})


def test_the_field_must_be_there_when_asked_for(folder):
    line = fault(folder, {"prompt": "Q?", "completion": GOOD}, answer_from="field")
    assert "field answer: the answer is empty; give it" in line


def test_a_later_row_of_another_shape_is_an_error_of_its_line(folder):
    with pytest.raises(DataError, match=r"record line 2, field prompt: no prompt \(filled columns: text\)"):
        load(folder, {"prompt": "Q?", "completion": GOOD}, {"text": "x"})


# Pictures -------------------------------------------------------------------------------------------------------------


def picture(folder, value, name="train.jsonl", **options):
    row = {"prompt": "Q?", "completion": GOOD, "image": value}
    row.update(options.pop("fields", {}))
    (example,) = load(folder, row, name=name, **options)
    return example.images[0]


def test_places_are_tried_in_their_order(folder):
    root, beside = folder / "root", folder / "data"
    own = beside / "train" / "q7"
    for place in (root, beside, own):
        place.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(place / "x.png")
    for place in (root, beside, own):
        found = picture(folder, "x.png", name="data/train.jsonl", image_root=root, fields={"id": "q7"})
        assert found == str(place / "x.png")
        (place / "x.png").unlink()


def test_the_split_of_the_record_names_its_folder(folder):
    (folder / "val" / "3").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(folder / "val" / "3" / "x.png")
    assert picture(folder, "x.png", fields={"id": 3, "split": "val"}) == str(folder / "val" / "3" / "x.png")


def test_image_root_may_lie_elsewhere_and_be_relative(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert picture(folder, "c.png", name="data/train.jsonl", image_root="images") == str(folder / "images" / "c.png")


@pytest.mark.parametrize("value", ["a.png", "./a.png", "images/../a.png"])
def test_paths_are_given_in_full(folder, value):
    assert picture(folder, value) == str(folder / "a.png")


def test_full_paths_within_the_folder_are_fine(folder):
    assert picture(folder, str(folder / "images" / "c.png")) == str(folder / "images" / "c.png")


@pytest.mark.parametrize("form", ["../a.png", "images/../../a.png", "{folder}/a.png", "/etc/passwd"])
def test_paths_that_lead_out_are_refused(folder, form):
    row = {"prompt": "Q?", "completion": GOOD, "image": form.format(folder=folder)}
    (folder / "data").mkdir()
    with pytest.raises(DataError, match="lies outside the folder of the data; move the picture, or set allow_outside"):
        load(folder, row, name="data/train.jsonl")


def test_an_id_cannot_lead_out_either(folder):
    (folder / "data").mkdir()
    row = {"prompt": "Q?", "completion": GOOD, "image": "a.png", "id": "../../.."}
    with pytest.raises(DataError, match="no such picture"):
        load(folder, row, name="data/train.jsonl")


def test_allow_outside_lets_them(folder):
    assert picture(folder, "../a.png", name="data/train.jsonl", allow_outside=True) == str(folder / "a.png")


def test_links_inside_the_folder_are_followed(folder):
    (folder / "data").mkdir()
    (folder / "data" / "pictures").symlink_to(folder / "images")
    assert picture(folder, "pictures/c.png", name="data/train.jsonl") == str(folder / "data" / "pictures" / "c.png")


@pytest.mark.parametrize("value", ["https://example.org/a.png", "s3://bucket/a.png"])
def test_pictures_elsewhere_are_refused(folder, value):
    line = fault(folder, {"prompt": "Q?", "completion": GOOD, "image": value})
    assert f"the picture {value} is not on this machine; download the pictures" in line


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "data:image/png;base64," + "iVBO" * 9_000,
            "the picture cannot be read (UnidentifiedImageError",
        ),
        ("data:image/png;base64,@" + "iVBO" * 9_000, "the picture data:image/png;base64,@iVBOiVBOi"),
        ("iVBO" * 9_000, "no such picture: iVBOiVBO"),
        ("https://x/" + "a" * 9_000, "the picture https://x/aaa"),
    ],
)
def test_a_picture_written_out_as_text_does_not_fill_pages(folder, value, message):
    line = fault(folder, {"prompt": "Q?", "completion": GOOD, "image": value})
    assert message in line
    assert len(line) < 600


def test_the_url_of_a_file_on_this_machine_is_its_path(folder):
    (folder / "a.png").rename(folder / "a b.png")
    for host in ("", "localhost"):
        assert picture(folder, f"file://{host}{folder}/a%20b.png") == str(folder / "a b.png")
    line = fault(folder, {"prompt": "Q?", "completion": GOOD, "image": "file:///etc/passwd"})
    assert "the picture /etc/passwd lies outside the folder of the data" in line
    line = fault(folder, {"prompt": "Q?", "completion": GOOD, "image": "file://other/a.png"})
    assert "the picture file://other/a.png is not on this machine" in line


@pytest.mark.parametrize("form", ["images/c.png", "file://{folder}/images/c.png", "data:image/png;base64,{encoded}"])
@pytest.mark.parametrize("plain", [True, False])
def test_parts_of_openais_form_show_pictures(folder, form, plain):
    file = folder / "images" / "c.png"
    url = form.format(folder=folder, encoded=b64encode(file.read_bytes()).decode())
    part = {"type": "image_url", "image_url": url if plain else {"url": url}}
    (example,) = load(folder, {"messages": [user([part, text("Q?")]), assistant()]})
    assert example.images == (file.read_bytes() if "base64" in form else str(file),)
    assert example.question == "Q?"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ({"url": "https://x.org/a.png"}, "is not on this machine; download the pictures and give their paths"),
        ({}, "field messages[0].content[0]: the part has no url; write"),
        (None, "the part has no url"),
    ],
)
def test_parts_of_openais_form_without_a_picture_here_are_one_line(folder, url, message):
    part = {"type": "image_url", "image_url": url}
    assert message in fault(folder, {"messages": [user([part, text("Q?")]), assistant()]})


def test_the_detail_of_such_a_part_is_counted(folder, caplog):
    part = {"type": "image_url", "image_url": {"url": "a.png", "detail": "high"}}
    load(folder, {"messages": [user([part, text("Q?")]), assistant()]})
    assert "in 1 records a size inside an image part was left out" in caplog.text


def test_paths_of_windows_are_found_and_counted(folder, caplog):
    assert picture(folder, "images\\c.png") == str(folder / "images" / "c.png")
    assert "in 1 records a picture was found only with / for the \\ in its path" in caplog.text
    (folder / "images\\c.png").write_bytes((folder / "a.png").read_bytes())
    assert picture(folder, "images\\c.png") == str(folder / "images\\c.png")
    for path in ("..\\..\\etc\\passwd", "C:\\pictures\\c.png"):
        line = fault(folder, {"prompt": "Q?", "completion": GOOD, "image": path})
        assert f"no such picture: {path} (looked in" in line


def test_a_full_path_of_another_machine_is_missing_not_outside(folder):
    line = fault(folder, {"prompt": "Q?", "completion": GOOD, "image": "/laptop/pictures/a.png"})
    assert (
        "no such picture: /laptop/pictures/a.png (a full path, perhaps of another machine); name pictures rel" in line
    )


def test_a_trace_in_other_tags_is_not_left_out_silently(folder, caplog):
    row = {"prompt": "Q?", "completion": "<thinking>so</thinking><answer>red</answer>"}
    assert "the row has no reasoning trace; it has <thinking>; rename it to <think>, or name" in fault(folder, row)
    (example,) = load(folder, row, on_missing="train")
    assert example.think is None
    assert "in 1 records the trace stands in tags of another name, such as <thinking>, and was left out" in caplog.text


def test_a_missing_picture_names_where_it_was_looked_for(folder):
    (folder / "r").mkdir()
    line = fault(folder, {"id": "q7", "prompt": "Q?", "completion": GOOD, "image": "none.png"}, image_root=folder / "r")
    assert line.startswith(f"{folder / 'train.jsonl'}, record q7 (line 1), field images: no such picture: none.png")
    homes = [folder / "r", folder, folder / "r" / "train" / "q7", folder / "train" / "q7"]
    assert f"(looked in {', '.join(map(str, homes))}); give image_root" in line


def test_a_broken_picture_names_file_and_record(folder):
    (folder / "bad.png").write_bytes(b"not a picture")
    line = fault(folder, {"id": "q7", "prompt": "Q?", "completion": GOOD, "image": "bad.png"})
    assert line.startswith(f"{folder / 'train.jsonl'}, record q7 (line 1), field images: the picture {folder}/bad.png")


def test_nothing_is_logged_for_faultless_rows(folder, caplog):
    with caplog.at_level(logging.WARNING):
        load(folder, {"messages": [user([IMAGE, text("Q?")]), assistant()], "image": "a.png", "answer": "red"})
    assert caplog.records == []
