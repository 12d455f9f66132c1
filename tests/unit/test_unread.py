"""``data.formats.unread``: fields that are not read are named where they are meant, and ordinary metadata is not."""

import json
import logging

import pytest
from PIL import Image

from balanced_thinking.data.formats.options import Options
from balanced_thinking.data.records import load_examples
from balanced_thinking.errors import DataError

GOOD = "<think>t</think><answer>yes</answer>"
METADATA = {
    "idx": 3, "source_id": "s", "question_id": "q7", "question_type": "count", "category": "Bar", "image_id": 17,
    "image_size": [4, 4], "answer_type": "text", "dataset": "d", "url": "https://x.org/page", "answers": ["yes"],
    "messages_raw": [], "caption": "a cat in a.png or so.", "file": "part-1.json", "difficulty": None, "score": 0.5,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b"):
        Image.new("RGB", (4, 4)).save(tmp_path / name, "PNG")
    return tmp_path


def notes(folder, caplog, *rows, **options):
    """What is said of rows in TRL's form."""
    (folder / "t.jsonl").write_text("".join(json.dumps({"completion": GOOD, **row}) + "\n" for row in rows))
    with caplog.at_level(logging.WARNING):
        list(load_examples(folder / "t.jsonl", **options))
    return [record.message.split(": ", 1)[1] for record in caplog.records]


@pytest.mark.parametrize("picture", [{}, {"image": "a.png"}])
def test_ordinary_metadata_is_passed_over(folder, caplog, picture):
    assert notes(folder, caplog, {"prompt": "Q?", "answer": "yes", **METADATA, **picture}) == []


def test_a_name_near_ours_is_named_once_with_its_count(folder, caplog):
    rows = [{"prompt": "Q?", "image": "a.png", "choises": ["yes", "no"], **METADATA, "answer": "yes"}] * 3
    assert notes(folder, caplog, *rows) == [
        'in 3 records the field choises is not read; did you mean choices? --columns \'{"choices": "choises"}\''
    ]


@pytest.mark.parametrize("name", ["rationale", "explanation", "cot", "Chain of Thought"])
def test_a_column_that_is_called_as_traces_are_is_named(folder, caplog, name):
    (folder / "t.csv").write_text(f"image,question,{name},answer\na.png,Q,because,dog\n")
    way = f"--columns '{json.dumps({'reasoning': name})}'"
    with caplog.at_level(logging.WARNING):
        (example,) = load_examples(folder / "t.csv", on_missing="train")
    assert example.think is None
    assert f"in 1 records the field {name} is not read; did you mean reasoning? {way}" in caplog.text
    with pytest.raises(DataError, match=f"did you mean the column {name}\\? {way}; else set on_missing to"):
        list(load_examples(folder / "t.csv"))
    (example,) = load_examples(folder / "t.csv", columns={"reasoning": name})
    assert example.think == "because"


def test_beside_a_trace_another_text_of_that_kind_is_passed_over(folder, caplog):
    (folder / "t.csv").write_text("question,reasoning,explanation,answer\nQ,r,because,dog\n")
    with caplog.at_level(logging.WARNING):
        list(load_examples(folder / "t.csv"))
    assert caplog.text == ""


def test_the_remedy_keeps_the_columns_that_were_given(folder, caplog):
    rows = [{"frage": "Q?", "imgaes": ["a.png"]}, {"frage": "Q?", "image": "a.png"}]
    (line,) = notes(folder, caplog, *rows, columns={"prompt": "frage"})
    assert line.endswith('did you mean images? --columns \'{"prompt": "frage", "images": "imgaes"}\'')


def test_further_pictures_are_named_without_a_guess(folder, caplog):
    assert notes(folder, caplog, {"prompt": "Q?", "image": "a.png", "depth": "a.png"}) == [
        "in 1 records the field depth, which looks like pictures, is not read"
    ]


@pytest.mark.parametrize("field", [{"picture": "a.png"}, {"imgaes": ["a.png"]}, {"Image": "a.png"}, {"img": "b"},
                                   {"scan": "none.JPG"}, {"photo": {"path": "a.png"}},
                                   {"shot": "data:image/png;base64,iVBO"}])  # fmt: skip
def test_a_set_without_pictures_that_holds_some_elsewhere_is_refused(folder, caplog, field):
    (name,) = field
    with pytest.raises(DataError, match="no record has a picture, but this field, which is not read, holds pict") as at:
        notes(folder, caplog, {"prompt": "Q?", **METADATA}, {"prompt": "Q?", **field})
    assert (at.value.field, at.value.file) == (name, folder / "t.jsonl")
    assert f'--columns \'{{"image": "{name}"}}\' (in Python columns=)' in str(at.value)


def test_text_only_data_with_odd_fields_are_read(folder, caplog):
    rows = [{"prompt": "Q?", "note": "see a.png"}, {"prompt": "Q?", "note": "x"}, {"prompt": "Q?", "note": "y"}]
    rows += [{"prompt": "Q?", "url": "https://x.org/a.png"}]
    assert "holds pictures" not in " ".join(notes(folder, caplog, *rows))


def test_fields_of_records_at_fault_are_named_too(folder):
    from balanced_thinking.data.audit import audit

    rows = ["image,question,reasonning,answer", "a.png,Q?,so,yes"]
    (folder / "t.csv").write_text("\n".join(rows) + "\n")
    found = audit(folder / "t.csv", options=Options())
    (note,) = (note for note, count in found.notes.items() if count)
    assert (found.good, note.split(";")[1]) == (0, ' did you mean reasoning? --columns \'{"reasoning": "reasonning"}\'')
