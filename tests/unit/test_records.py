"""``data.records``: files in, data sets out, and the same example at both ends."""

import io
import json
import logging
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from PIL import Image

import balanced_thinking as bt
from balanced_thinking.data.example import Example
from balanced_thinking.data.records import DatasetWriter, Ids, is_held_out, load_examples, to_dataset, to_trl_row
from balanced_thinking.errors import ConfigError, DataError, SegmentError
from tiny import tiny_examples

ROW = {
    "id": "x1",
    "prompt": [{"role": "user", "content": "2+2?"}],
    "completion": [{"role": "assistant", "content": "<think>sum</think><answer>4</answer>"}],
}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def fault(path, **options):
    with pytest.raises(DataError) as caught:
        list(load_examples(path, **options))
    line = str(caught.value)
    assert "\n" not in line
    return line


def on_disk(folder, count=9):
    """Examples whose pictures are files beside the data, as the project writes them."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    examples = []
    for example in tiny_examples(count):
        path = folder / "images" / f"{example.id}.png"
        example.images[0].save(path)
        examples.append(replace(example, images=(str(path),)))
    return examples


# There and back -------------------------------------------------------------------------------------------------------


def test_public_names():
    assert bt.Example is Example
    assert bt.load_examples is load_examples
    assert bt.to_dataset is to_dataset


def test_a_trl_row_word_for_word():
    example = Example("a", "s", ("x.png",), "Which?", ("red", "blue"), "It is red.", "A", "choice")
    assert to_trl_row(example) == {
        "id": "a",
        "source": "s",
        "prompt": [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which?\nA. red\nB. blue"}]}
        ],
        "completion": [
            {
                "role": "assistant",
                "content": [{"type": "text", "text": "<think>It is red.</think><answer>A</answer>"}],
            }
        ],
        "images": ["x.png"],
        "answer": "A",
        "kind": "choice",
        "choices": ["red", "blue"],
    }


def test_jsonl_there_and_back_is_the_identity(tmp_path):
    examples = on_disk(tmp_path)
    assert {example.kind for example in examples} == {"choice", "number", "text"}
    path = write(tmp_path / "train.jsonl", *map(to_trl_row, examples))
    assert list(load_examples(path)) == examples


def test_relative_pictures_belong_to_the_file_not_to_the_working_folder(tmp_path, monkeypatch):
    examples = on_disk(tmp_path / "data")
    rows = [to_trl_row(example) for example in examples]
    for row in rows:
        row["images"] = [f"images/{row['id']}.png"]
    write(tmp_path / "data" / "train.jsonl", *rows)
    monkeypatch.chdir(tmp_path)
    assert list(load_examples("data/train.jsonl")) == examples


@pytest.mark.parametrize("suffix", ["json", "ndjson"])
def test_other_json_files_there_and_back(tmp_path, suffix):
    examples = on_disk(tmp_path)
    rows = [to_trl_row(example) for example in examples]
    path = tmp_path / f"train.{suffix}"
    if suffix == "json":
        path.write_text(json.dumps(rows, indent=1))
    else:
        write(path, *rows)
    assert list(load_examples(path)) == examples


def test_json_lines_named_json_are_read_as_such(tmp_path):
    examples = on_disk(tmp_path, 2)
    assert list(load_examples(write(tmp_path / "train.json", *map(to_trl_row, examples)))) == examples


@pytest.mark.parametrize("form", ["parquet", "folder"])
def test_saved_data_sets_there_and_back(tmp_path, form):
    examples = on_disk(tmp_path)
    dataset = to_dataset(examples)
    path = tmp_path / ("train.parquet" if form == "parquet" else "train")
    dataset.to_parquet(str(path)) if form == "parquet" else dataset.save_to_disk(str(path))
    read = list(load_examples(path))
    assert [replace(example, images=()) for example in read] == [replace(example, images=()) for example in examples]
    for example, original in zip(read, examples, strict=True):
        (picture,), (file,) = example.images, original.images
        if isinstance(picture, str):
            assert picture == file
        else:  # embedded in the file, byte for byte
            assert picture == open(file, "rb").read()  # noqa: PTH123, SIM115


def test_a_folder_of_splits_asks_which(tmp_path):
    from datasets import DatasetDict

    data = to_dataset(on_disk(tmp_path, 2))
    DatasetDict({"train": data, "val": data}).save_to_disk(str(tmp_path / "two"))
    DatasetDict({"train": data}).save_to_disk(str(tmp_path / "one"))
    line = fault(tmp_path / "two")
    assert "the folder holds 2 splits; give one of " in line
    assert f"{tmp_path}/two:val" in line
    assert len(list(load_examples(tmp_path / "two" / "val"))) == 2
    assert len(list(load_examples(f"{tmp_path}/two:val"))) == 2
    assert len(list(load_examples(tmp_path / "one"))) == 2


def test_encoded_bytes_go_through_unchanged(tmp_path):
    stream = io.BytesIO()
    Image.new("RGB", (6, 4), (200, 10, 20)).save(stream, "JPEG")
    example = replace(tiny_examples(1)[0], images=(stream.getvalue(),))
    to_dataset([example]).to_parquet(str(tmp_path / "a.parquet"))
    assert list(load_examples(tmp_path / "a.parquet")) == [example]


# to_dataset -----------------------------------------------------------------------------------------------------------


def test_the_data_set_has_trls_columns_and_lazy_pictures(tmp_path):
    from datasets import Image as ImageFeature
    from datasets import List

    dataset = to_dataset(on_disk(tmp_path))
    assert dataset.column_names == ["id", "source", "prompt", "completion", "images", "answer", "kind", "choices"]
    assert dataset.features["images"] == List(ImageFeature())
    assert dataset[0]["images"][0].size == tiny_examples(1)[0].images[0].size


def test_paths_stay_paths_until_a_row_is_read(tmp_path):
    examples = on_disk(tmp_path, 2)
    dataset = to_dataset(examples)
    stored = dataset.with_format("arrow")[0].to_pylist()[0]["images"]
    assert stored == [{"bytes": None, "path": examples[0].images[0]}]
    os.remove(examples[0].images[0])  # noqa: PTH107
    with pytest.raises(FileNotFoundError):
        dataset[0]


def test_path_objects_and_rows_without_pictures_mix(tmp_path):
    from pathlib import Path

    first, second = on_disk(tmp_path, 2)
    dataset = to_dataset([replace(first, images=(Path(first.images[0]),)), replace(second, images=())])
    assert dataset[1]["images"] == []
    assert dataset[0]["images"][0].size


def test_many_examples_keep_their_order(monkeypatch):
    from balanced_thinking.data import records

    monkeypatch.setattr(records, "_CHUNK", 3)
    examples = [replace(example, images=()) for example in tiny_examples(10)]
    dataset = to_dataset(iter(examples))
    assert dataset["id"][:] == [example.id for example in examples]
    assert dataset[9]["choices"] == list(examples[9].choices)
    assert dataset[8]["choices"] is None


def test_half_a_character_names_its_row():
    good, bad = (
        Example("a", "s", (), "Q?", None, "t", "x", "text"),
        Example("b", "s", (), "Q?", None, "\ud800", "x", "text"),
    )
    with pytest.raises(DataError, match=r"^record b: the text holds half a character .*; mend the text"):
        to_dataset([good, bad])


def test_rows_that_cannot_be_written_are_one_line(tmp_path):
    """As in a folder that is there but not the user's."""
    writer = DatasetWriter(tmp_path / "none" / "rows.arrow")
    writer.add(to_trl_row(tiny_examples(1)[0]))
    with pytest.raises(ConfigError, match=r"rows\.arrow cannot be written .*; choose another output_dir"):
        writer.finish()


def test_a_picture_stands_on_one_side_in_whatever_form_it_comes(tmp_path):
    """Pixels alone are those of equal pixels; PIL images and mappings once were others than their file, or a crash."""
    for number in range(8):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (4, 4), (number, 0, 0)).save(path)
        data = path.read_bytes()
        forms = [path, str(path), data, bytearray(data), memoryview(data), {"bytes": data, "path": None}]
        forms += [{"bytes": None, "path": str(path)}, Image.open(path)]
        sides = {is_held_out(Example("a", "s", (form,), "Q?", None, None, "x", "text"), 0.5) for form in forms}
        assert len(sides) == 1
        pixels = [Image.new("RGB", (4, 4), (number, 0, 0)), Image.open(path).copy()]
        sides = {is_held_out(Example("a", "s", (form,), "Q?", None, None, "x", "text"), 0.5) for form in pixels}
        assert len(sides) == 1


def test_no_examples_make_no_data_set():
    with pytest.raises(DataError, match="no examples"):
        to_dataset([])


def test_trl_takes_the_rows_as_they_are(tmp_path):
    from trl.data_utils import is_conversational, prepare_multimodal_messages

    row = to_dataset(on_disk(tmp_path, 1))[0]
    assert is_conversational({"prompt": row["prompt"], "completion": row["completion"]})
    prepared = prepare_multimodal_messages(row["prompt"], row["images"])
    assert prepared[0]["content"][0]["image"] is row["images"][0]


# load_examples: files -------------------------------------------------------------------------------------------------


def test_faults_of_the_file_come_at_the_call_not_at_the_first_example(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_examples(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b"", "a.jsonl: the file holds no records; give at least one"),
        ("a.jsonl", b"\n \n", "the file holds no records"),
        ("a.json", b"", "the file holds no records"),
        ("a.json", b"[]", "the file holds no records"),
        ("a.txt", b"x", "unknown kind of file '.txt'; known are .jsonl"),
        ("a.jsonl", b'{"id": "\xff"}\n', "a.jsonl, record line 1: not UTF-8 (byte 0xff); save the file as UTF-8"),
        ("a.json", b'[{"prompt": "Q", "answer": "\xe9"}]', "a.json, record row 0: not UTF-8 (byte 0xe9)"),
        ("a.json", b"[" + json.dumps(ROW).encode() + b',\n{"id": "\xe9"}]', "record row 1: not UTF-8 (byte 0xe9)"),
        ("a.jsonl", "ä".encode("utf-16"), "not UTF-8"),
        ("a.jsonl", b'{"id": 1', "record line 1: the file ends in the middle of a record; write the file again"),
        ("a.jsonl", b'{"id": 1\n{"id": 2}\n', "record line 1: not a line of JSON (Expecting"),
        ("a.jsonl", b'{"id": 1} {"id": 2}\n', "record line 1: not a line of JSON (Extra data"),
        ("a.jsonl", b"[1]\n", "record line 1: a record must be an object with named fields, not list"),
        ("a.jsonl", b"7\n", "a record must be an object with named fields, not int"),
        ("a.json", b"[1]", "record row 0: a record must be an object"),
        ("a.json", b"[" + json.dumps(ROW).encode(), "a.json: not JSON (Expecting"),
        ("a.json", b"[" + json.dumps(ROW).encode() + b", {", "a.json: not JSON (Expecting"),
        (
            "a.csv",
            b"question,answer\nQ?,A,B\n",
            "record line 2: the row has not as many cells as the header (2): it has 3",
        ),
        ("a.csv", b'question,answer\n"Q?,A\n', "record line 2: not a row of a table (unexpected end of data)"),
        ("a.csv", b"question,answer\nQ?,\xe9\n", "not UTF-8 (byte 0xe9)"),
        ("a.csv", b"question,answer\n", "the file holds no records"),
        ("a.csv", b"", "the file holds no records"),
        ("a.csv", b"question,answer,answer\nQ?,A,B\n", "the header names 'answer' twice; rename one"),
        ("a.json", b'"x"', "the file holds str, not a list of records"),
        ("a.json", b'{\n"id": 1\n}', "the file holds an object, not a list of records; give a list of records"),
        ("a.parquet", b"PAR1 but no more", "a.parquet: the file cannot be read"),
        ("a.parquet", b"", "a.parquet: the file cannot be read"),
        (
            "a.jsonl",
            b'{"id": 1, "colour": "red"}\n',
            "record 1 (line 1): no known format has such records",
        ),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    line = fault(tmp_path / name)
    assert message in line
    assert line.startswith(str(tmp_path / name))


def test_a_fault_in_a_later_line_names_that_line(tmp_path):
    path = write(tmp_path / "a.jsonl", ROW, ROW)
    with path.open("a") as file:
        file.write("\n" + json.dumps(ROW)[:40])
    assert "record line 4: the file ends in the middle of a record" in fault(path)


def test_a_folder_that_is_no_data_set_names_the_files_in_it(tmp_path):
    write(tmp_path / "train.jsonl", ROW)
    assert len(list(load_examples(tmp_path))) == 1
    write(tmp_path / "val.jsonl", ROW)
    parts = f"give one of {tmp_path}:train, {tmp_path}:val"
    assert f"the folder holds 2 splits or data sets; {parts}" in fault(tmp_path)
    (tmp_path / "empty").mkdir()
    assert "known are .jsonl" in fault(tmp_path / "empty")


def test_a_byte_order_mark_and_blank_lines_do_no_harm(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROW).encode() + b"\r\n\r\n" + json.dumps(ROW).encode())
    assert [example.answer for example in load_examples(path)] == ["4", "4"]


def test_reading_is_lazy(tmp_path):
    path = write(tmp_path / "a.jsonl", ROW, {"broken": 1})
    examples = load_examples(path)
    assert next(examples).id == "x1"
    with pytest.raises(DataError, match="line 2"):
        next(examples)


# load_examples: options -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "parkett"}, "data format 'parkett' is unknown; choose one of llava-cot, share4o"),
        ({"answer_from": "somewhere"}, "answer_from must be one of tag, boxed, after_think, field, not 'somewhere'"),
        ({"on_missing": "drop"}, "on_missing must be one of error, skip, train, not 'drop'"),
        ({"columns": "prompt"}, "columns must map our names to the file's"),
        ({"columns": {"prompt": 3}}, "columns must map"),
        ({"columns": {"trace": "prompt"}}, "no format has a field 'trace'; the fields are id, "),
    ],
)
def test_options_that_make_no_sense(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        load_examples(write(tmp_path / "a.jsonl", ROW), **options)


def test_the_format_taken_is_logged_with_its_reason(tmp_path, caplog):
    path = write(tmp_path / "a.jsonl", ROW)
    with caplog.at_level(logging.INFO, logger="balanced_thinking"):
        list(load_examples(path))
        list(load_examples(path, "trl"))
    assert [record.message for record in caplog.records] == [
        f"{path}: format trl, since it has prompt and completion",
        f"{path}: 0 of 1 records have pictures",
        f"{path}: format trl, since it was asked for",
        f"{path}: 0 of 1 records have pictures",
    ]


def test_columns_can_be_renamed(tmp_path):
    path = write(tmp_path / "a.jsonl", {"nr": 7, "query": "2+2?", "response": "<think>s</think><answer>4</answer>"})
    (example,) = load_examples(path, columns={"prompt": "query", "completion": "response", "id": "nr"})
    assert (example.id, example.question, example.answer) == ("7", "2+2?", "4")


def test_a_renamed_column_wins_over_one_of_our_name(tmp_path):
    path = write(tmp_path / "a.jsonl", {**ROW, "better": "<think>s</think><answer>5</answer>"})
    (example,) = load_examples(path, columns={"completion": "better"})
    assert example.answer == "5"


def test_a_renamed_column_that_is_not_there(tmp_path):
    path = write(tmp_path / "a.jsonl", ROW)
    line = fault(path, columns={"completion": "response"})
    assert (
        "field response: columns names 'response', which is not there; its columns are id, prompt, completion" in line
    )


def test_a_renamed_column_may_be_missing_from_some_records(tmp_path):
    """The first record alone was looked at, and a file that begins with a text-only row was refused."""
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    path = write(tmp_path / "a.jsonl", ROW, {**ROW, "Bild": "a.png"}, ROW)
    found = [len(example.images) for example in load_examples(path, columns={"image": "Bild"})]
    assert found == [0, 1, 0]
    write(path, *[ROW] * 99, {**ROW, "Bild": "a.png"})
    assert len(list(load_examples(path, columns={"image": "Bild"}))) == 100
    write(path, *[ROW] * 100, {**ROW, "Bild": "a.png"})
    line = fault(path, columns={"image": "Bild"})
    assert "columns names 'Bild', which is not in the first 100 records; its columns are id, " in line


def test_skipped_records_are_counted_by_reason(tmp_path, caplog):
    def with_response(text):
        return {**ROW, "completion": text}

    path = write(
        tmp_path / "a.jsonl",
        with_response("<answer>4</answer>"),
        ROW,
        with_response("<think>a</think>"),
        with_response("<answer>4</answer>"),
        with_response("<think>a"),
    )
    with caplog.at_level(logging.WARNING):
        assert len(list(load_examples(path, on_missing="skip"))) == 1
    assert [record.message for record in caplog.records] == [
        f"{path}: 4 records skipped (2 no-think, 1 no-answer, 1 unclosed-think)"
    ]


def test_skipped_records_are_reported_when_the_reader_stops_early(tmp_path, caplog):
    path = write(tmp_path / "a.jsonl", {**ROW, "completion": "<answer>4</answer>"}, ROW, ROW)
    examples = load_examples(path, on_missing="skip")
    next(examples)
    examples.close()
    assert "1 records skipped (1 no-think)" in caplog.text


def test_when_all_records_are_skipped_that_is_an_error(tmp_path):
    path = write(tmp_path / "a.jsonl", {**ROW, "completion": "<answer>4</answer>"})
    assert "no record is left: all 1 were skipped" in fault(path, on_missing="skip")


def test_a_repeated_id_is_numbered_and_told(tmp_path, caplog):
    path = write(tmp_path / "a.jsonl", ROW, ROW, {**ROW, "id": "x1#2"}, ROW, {**ROW, "source": "other"})
    assert [example.id for example in load_examples(path)] == ["x1", "x1#2", "x1#2#2", "x1#3", "x1"]
    assert "in 3 records the id occurred before and was numbered" in caplog.text


def test_many_records_of_one_id_cost_the_same_each():
    """Each once looked through all that were given before: 40,000 would have taken minutes."""
    ids = Ids()
    assert [ids.own("x") for _ in range(40_000)][-1] == "x#40000"
    assert [ids.own(name) for name in ("y#2", "y", "y", "y", "y#2")] == ["y#2", "y", "y#3", "y#4", "y#2#2"]


def test_nothing_to_tell_means_silence(tmp_path, caplog):
    list(load_examples(write(tmp_path / "a.jsonl", ROW)))
    assert caplog.records == []


def test_faults_of_segments_keep_their_kind(tmp_path):
    path = write(tmp_path / "a.jsonl", {**ROW, "completion": "<think>a</think>"})
    with pytest.raises(SegmentError) as caught:
        list(load_examples(path))
    assert caught.value.kind == "no-answer"


def test_it_needs_no_torch_and_at_first_nothing_heavy(tmp_path):
    write(tmp_path / "a.jsonl", ROW)
    code = (
        "import sys; from balanced_thinking.data.records import load_examples, to_dataset\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'PIL', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        f"examples = list(load_examples({str(tmp_path / 'a.jsonl')!r}))\n"
        "assert 'datasets' not in sys.modules\n"
        "to_dataset(examples)[0]\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
