"""``data.formats.llama_factory``: what an entry of dataset_info.json says, and what of it is not done."""

import json
import logging

import pytest
from PIL import Image

from balanced_thinking.data.audit import audit
from balanced_thinking.data.formats.options import SYSTEM, Options
from balanced_thinking.data.records import load_examples
from balanced_thinking.errors import DataError

TAGGED = "<think>It is.</think><answer>B</answer>"
STAGES = "<SUMMARY>s</SUMMARY><CAPTION>c</CAPTION><REASONING>r</REASONING><CONCLUSION>x</CONCLUSION>"


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (4, 4), "teal").save(tmp_path / "a.png")
    return tmp_path


def write(folder, rows, **entry):
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "dataset_info.json").write_text(json.dumps({"mine": {"file_name": "rows.json", **entry}}))
    return folder


def chat(response, asked="<image>Q?"):
    return {"conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": response}], "image": "a.png"}


def test_the_system_column_of_alpaca_rows_is_counted(folder):
    """It was dropped in silence."""
    row = {"instruction": "Q?", "output": TAGGED, "sys": "Be brief."}
    found = audit(write(folder, [row, {**row, "sys": ""}], columns={"system": "sys"}), options=Options())
    assert (found.good, found.notes[SYSTEM]) == (2, 1)
    found = audit(write(folder, [{"instruction": "Q?", "output": TAGGED, "system": "Be brief."}]), options=Options())
    assert (found.good, found.notes[SYSTEM]) == (1, 1)  # counted once, by whichever reader
    turns = [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": TAGGED}]
    rows = [{"conversations": turns, "sys": "Be brief."}]
    found = audit(write(folder, rows, formatting="sharegpt", columns={"system": "sys"}), options=Options())
    assert (found.good, found.notes[SYSTEM]) == (1, 1)


@pytest.mark.parametrize(
    ("response", "name", "think", "answer"),
    [
        (STAGES, "llava-cot", "Summary: s\n\nCaption: c\n\nReasoning: r", "x"),
        ("Because.\n### Answer: x", "share4o", "Because.", "x"),
        ("### Rationales: r\n### The final answer is: x", "mulberry", "### Rationales: r", "x"),
        (TAGGED, "sharegpt", "It is.", "B"),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_responses_are_read_as_the_format_of_the_file(folder, response, name, think, answer, named, caplog):
    """All were told as TRL's messages, which have tags."""
    caplog.set_level(logging.INFO)
    write(folder, [chat(response)], formatting="sharegpt", columns={"images": "image"})
    (example,) = load_examples(folder, name if named else None)
    assert f"format {name}, since" in caplog.text
    assert (example.question, example.think, example.answer) == ("Q?", think, answer)
    assert example.images == (str(folder / "a.png"),)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_several_messages_of_a_response_stay_one_response(folder):
    turns = [{"role": role, "content": text} for role, text in
             (("user", "Q?"), ("assistant", "<think>t</think>"), ("assistant", "<answer>x</answer>"))]  # fmt: skip
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    columns = {"messages": "messages"}
    write(folder, [{"messages": turns}], formatting="openai", columns=columns, tags=tags)
    (example,) = load_examples(folder)
    assert (example.think, example.answer) == ("t", "x")


def test_what_of_an_entry_is_not_done_is_said_once(folder, caplog):
    caplog.set_level(logging.INFO)
    row = {"instruction": "Q?", "output": TAGGED}
    entry = {"num_samples": 1, "split": "train", "ranking": False, "columns": {"tools": "t", "prompt": "instruction"}}
    assert len(list(load_examples(write(folder, [row, row], **entry)))) == 2
    said = "what its entry in dataset_info.json says under num_samples, columns.tools is not done (all rows are read;"
    assert caplog.text.count(said) == 1
    caplog.clear()
    list(load_examples(write(folder, [row])))
    assert "not done" not in caplog.text


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"ranking": True}, "field ranking: pairs of preferences are not trained here"),
        ({"formatting": "chatml"}, "field formatting: unknown layout 'chatml'; known are alpaca, sharegpt, openai"),
        ({"file_name": "."}, "field file_name: must be the name of a data file or data set"),
    ],
)
def test_entries_that_cannot_be_used_are_one_line(folder, entry, message):
    with pytest.raises(DataError, match=message):
        list(load_examples(write(folder, [{"instruction": "Q?", "output": TAGGED}], **entry)))


def test_subset_and_split_of_the_hub_are_asked_for(folder, monkeypatch):
    asked = []
    row = {"instruction": "Q?", "output": TAGGED}
    monkeypatch.setattr(
        "datasets.load_dataset", lambda *names, **options: asked.append((names, options)) or iter([row])
    )
    entry = {"hf_hub_url": "owner/name", "subset": "small", "split": "test"}
    (folder / "dataset_info.json").write_text(json.dumps({"mine": entry}))
    assert len(list(load_examples(folder))) == 1
    assert asked == [(("owner/name", "small"), {"split": "test", "streaming": True})]
