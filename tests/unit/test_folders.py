"""``data.formats.folders``: folders in the usual layouts, their splits, and the hub."""

import json
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from balanced_thinking.data.audit import audit
from balanced_thinking.data.formats.folders import is_here, read_records
from balanced_thinking.data.formats.options import Options
from balanced_thinking.data.records import load_examples
from balanced_thinking.errors import DataError
from balanced_thinking.evaluation.benchmarks import ask
from balanced_thinking.training.dataset import DataArguments, check_present

ROW = {"question": "Q?", "reasoning": "so", "answer": "x"}


def parquet(path: Path, *answers: str, **more: object) -> None:
    from datasets import Dataset

    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list([{**ROW, "answer": answer, **more} for answer in answers]).to_parquet(path)


def answers(name: str | Path) -> list[str]:
    return [record.fields["answer"] for record in read_records(Path(name))]


def fault(name: str | Path) -> str:
    with pytest.raises(DataError) as caught:
        list(read_records(Path(name)))
    return str(caught.value)


@pytest.mark.parametrize("home", ["", "data"])
def test_a_clone_of_the_hub_is_read_by_split(tmp_path, home):
    folder = tmp_path / "set"
    for number, answer in enumerate("ab"):
        parquet(folder / home / f"train-0000{number}-of-00002.parquet", answer)
    assert answers(folder) == ["a", "b"]  # the only split
    parquet(folder / home / "test-00000-of-00001-0123456789abcdef.parquet", "c", "d")
    (folder / "dataset_infos.json").write_text("{}")
    assert answers(f"{folder}:train") == ["a", "b"]
    assert answers(f"{folder}:test") == ["c", "d"]
    assert fault(folder) == (
        f"{folder}: the folder holds 2 splits or data sets; give one of {folder}:test, {folder}:train"
    )
    assert fault(f"{folder}:val") == f"{folder}: the folder has no part 'val'; there are {folder}:test, {folder}:train"
    places = [record.place for record in read_records(Path(f"{folder}:train"))]
    assert [(place.file.name[:11], place.record) for place in places] == [
        ("train-00000", "row 0"),
        ("train-00001", "row 0"),
    ]
    check_present(DataArguments(dataset=[f"{folder}:train"]))
    assert is_here(f"{folder}:train")
    asked = ask(f"{folder}:test")
    assert (asked.name, [question.example.answer for question in asked.load()]) == ("set-test", ["c", "d"])
    assert not is_here(f"{tmp_path}/none:train")
    (folder / home / "train-00001-of-00002.parquet").unlink()
    assert "only 1 of 2 shards of train are there; download the others" in fault(f"{folder}:train")


def test_shards_are_opened_one_after_the_other(tmp_path):
    parquet(tmp_path / "train-00000-of-00002.parquet", "a")
    (tmp_path / "train-00001-of-00002.parquet").write_bytes(b"cut off")
    records = read_records(tmp_path)
    assert next(records).fields["answer"] == "a"
    with pytest.raises(DataError, match=r"train-00001-of-00002\.parquet: the file cannot be read"):
        next(records)


def test_a_parquet_file_for_each_source_is_one_set_where_the_columns_are_the_same(tmp_path, caplog):
    caplog.set_level("INFO")
    parquet(tmp_path / "ai2d.parquet", "a")
    parquet(tmp_path / "chartqa.parquet", "b")
    found = [(example.source, example.answer) for example in load_examples(tmp_path)]
    assert found == [("ai2d", "a"), ("chartqa", "b")]
    assert "and its 2 files, which have the same columns, are read as one set" in caplog.text
    assert answers(f"{tmp_path}:chartqa") == ["b"]
    parquet(tmp_path / "geo.parquet", "c", level=1)
    ways = f"{tmp_path}:ai2d, {tmp_path}:chartqa, {tmp_path}:geo, or several as a mixture"
    assert f"the folder holds 3 splits or data sets; give one of {ways}" in fault(tmp_path)


@pytest.mark.parametrize("name", ["test", "my_test", "testmini", "validation", "val-easy"])
def test_a_split_is_never_read_together_with_another(tmp_path, name):
    parquet(tmp_path / "ai2d.parquet", "a")
    parquet(tmp_path / f"{name}.parquet", "b")
    assert "the folder holds 2 splits" in fault(tmp_path)


def test_files_of_one_name_keep_their_suffix(tmp_path):
    for suffix in ("json", "jsonl"):
        (tmp_path / f"train.{suffix}").write_text(json.dumps({**ROW, "answer": suffix}))
    assert answers(f"{tmp_path}:train.json") == ["json"]
    assert f"{tmp_path}:train.json, {tmp_path}:train.jsonl" in fault(tmp_path)


@pytest.mark.parametrize("table", ["metadata.csv", "metadata.jsonl"])
def test_folders_of_pictures_with_their_tables_are_splits(tmp_path, table):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / split / "a.png")
        row = {"file_name": "a.png", **ROW, "answer": split}
        text = json.dumps(row) if table.endswith("jsonl") else f"{','.join(row)}\n{','.join(row.values())}"
        (tmp_path / split / table).write_text(text + "\n")
        if split == "train":
            assert answers(tmp_path) == ["train"]
    (example,) = load_examples(f"{tmp_path}:train")
    assert (example.images, example.answer) == ((str(tmp_path / "train" / "a.png"),), "train")
    assert f"give one of {tmp_path}:test, {tmp_path}:train" in fault(tmp_path)


# the hub, which itself is not reached in tests ------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A parquet file of encoded pictures, and ``datasets`` streaming it for any name; gives the file and the calls."""
    import datasets

    file, asked, real = tmp_path / "rows.parquet", [], datasets.load_dataset
    encoded = BytesIO()
    Image.new("RGB", (5, 4), "teal").save(encoded, "png")
    picture = {"bytes": encoded.getvalue(), "path": "a.png"}
    features = datasets.Features(
        {"images": datasets.List(datasets.Image()), **dict.fromkeys(ROW, datasets.Value("string"))}
    )
    datasets.Dataset.from_list([{"images": [picture], **ROW}], features=features).to_parquet(file)

    def load_dataset(*names, **options):
        asked.append((names, options))
        if names[0] == "owner/none":
            raise ConnectionError("no network\nhere")
        return real("parquet", data_files=str(file), split="train", streaming=True)

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    return file, asked


def test_a_hub_data_set_is_streamed_as_it_is_stored(hub):
    file, asked = hub
    for name in ("owner/name", "owner/name:test", "owner/name:config:test"):
        (example,) = load_examples(name)
        assert (example.answer, example.source) == ("x", name.partition("/")[2])
        assert example.images == next(load_examples(file)).images
    assert asked == [
        (("owner/name", None), {"split": "train", "streaming": True}),
        (("owner/name", None), {"split": "test", "streaming": True}),
        (("owner/name", "config"), {"split": "test", "streaming": True}),
    ]
    line = fault("owner/none")
    assert "owner/none: no such file, and no such data set of the hub (no network here); check the name (owner/" in line


def test_a_hub_data_set_shows_the_pictures_of_its_files(hub):
    """Its pixels were compared with the bytes of a local copy, and no leak was found."""
    file, _ = hub
    found = audit(Path("owner/name"), options=Options(), other=file)
    assert (found.shared, found.pictures) == (1, 1)


def test_a_connection_lost_between_rows_is_one_line(monkeypatch):
    def rows():
        yield dict(ROW)
        raise ConnectionError("reset by peer")

    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: rows())
    examples = load_examples("owner/name")
    next(examples)
    with pytest.raises(DataError, match=r"owner/name: no such file, and no such .* \(reset by peer\); check the name"):
        next(examples)


def test_files_that_lie_beside_the_rows_on_the_hub_are_fetched(hub, monkeypatch):
    import fsspec

    picture = BytesIO()
    Image.new("RGB", (5, 4), "teal").save(picture, "png")
    with fsspec.open("memory://a.png", "wb") as file:
        file.write(picture.getvalue())
    row = {"image": {"bytes": None, "path": "memory://a.png"}, **ROW}
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: iter([row]))
    (example,) = load_examples("owner/name")
    assert example.images == (picture.getvalue(),)
