"""Where a run takes its rows from: several data sets mixed, shares of them, splits by picture."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from PIL import Image

from balanced_thinking.core.segments import THINK_ANSWER, SegmentSpec
from balanced_thinking.data.images import open_image
from balanced_thinking.data.records import to_trl_row
from balanced_thinking.errors import ConfigError, DataError
from balanced_thinking.evaluation.benchmarks import BENCHMARKS
from balanced_thinking.training.dataset import DataArguments, check_present, load_data, remove_data
from balanced_thinking.training.origins import Origins
from tiny import tiny_examples


@pytest.fixture
def files(tmp_path):
    """Two files of ten rows each: a0 .. a9 and b0 .. b9."""
    paths = []
    for name in "ab":
        lines = []
        for number, example in enumerate(tiny_examples(10)):
            picture = f"{name}{number}.png"
            example.images[0].save(tmp_path / picture)
            lines.append(json.dumps({**to_trl_row(example), "id": f"{name}{number}", "images": [picture]}))
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        paths.append(str(path))
    return paths


def ids(**arguments):
    return load_data(DataArguments(**arguments))[0]["id"]


def test_a_single_name_may_stand_alone(files):
    assert DataArguments(dataset=files[0]).dataset == [files[0]]
    assert ids(dataset=files[0]) == [f"a{i}" for i in range(10)]


def test_several_sets_are_mixed_in_the_given_shares(files):
    assert ids(dataset=files) == [f"{name}{i}" for name in "ab" for i in range(10)]
    assert ids(dataset=files, dataset_fractions=[0.5, 0.3]) == ["a1", "a3", "a5", "a7", "a9", "b3", "b6", "b9"]
    assert ids(dataset=files, limit=2, dataset_fractions=[1.0, 0.5]) == ["a0", "a1", "b1"]


@pytest.mark.parametrize(("fraction", "count"), [(0.29, 29), (0.57, 57), (0.1, 10), (1.0, 100), (1 / 3, 33)])
def test_a_share_is_that_of_its_decimal(tmp_path, fraction, count):
    """0.29 and 0.57 as floats gave 28 and 56 of a hundred."""
    row = {"prompt": "Q?", "completion": "<think>w</think><answer>x</answer>"}
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for _ in range(100)))
    assert len(ids(dataset=str(tmp_path / "a.jsonl"), dataset_fractions=[fraction])) == count


@pytest.mark.parametrize(
    ("fractions", "complaint"),
    [([0.5], "1 entries for 2 data sets"), ([0.5, 0.0], "above 0"), ([1.5, 0.5], "at most at 1")],
)
def test_shares_are_checked(files, fractions, complaint):
    with pytest.raises(ConfigError, match=complaint):
        DataArguments(dataset=files, dataset_fractions=fractions)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"dataset": [5]}, r"dataset must be names, files or folders, not \[5\]"),
        ({"dataset": 5}, "dataset must be names, files or folders, not 5"),
        ({"dataset": None}, "dataset must be names"),
        ({"dataset_fractions": ["a"]}, r"dataset_fractions must be numbers, not \['a'\]"),
        ({"dataset_fractions": [True]}, "dataset_fractions must be numbers"),
        ({"eval_dataset": 5}, "eval_dataset must be a name or path, not 5"),
        ({"image_root": 5}, "image_root must be a name or path, not 5"),
        ({"limit": 1.5}, "limit must be a whole number, not 1.5"),
        ({"limit": True}, "limit must be a whole number, not True"),
        ({"max_pixels": "many"}, "max_pixels must be a whole number"),
        ({"eval_fraction": [1]}, "eval_fraction must be a number"),
        ({"system_prompt": ["x"]}, "system_prompt must be text"),
        ({"on_missing": None}, "on_missing must be text"),
        ({"allow_outside": "yes"}, "allow_outside must be true or false, not 'yes'"),
        ({"columns": ["a"]}, "columns must be a mapping"),
        ({"system_prompt": "\ud800"}, "system_prompt holds half a character"),
    ],
)
def test_values_of_another_type_are_one_line(values, complaint):
    with pytest.raises(ConfigError, match=complaint):
        DataArguments(**{"dataset": ["x"], **values})


def test_paths_of_a_program_are_taken(files):
    assert DataArguments(dataset=Path(files[0]), image_root=Path("a")).dataset == [files[0]]
    assert DataArguments(dataset=[Path(files[0])], dataset_fractions=1).dataset_fractions == [1]


def test_sets_of_different_options_are_mixed_as_documented(tmp_path, monkeypatch, caplog):
    """One set of options for all: answer_from was refused by Mulberry, and columns by every other file."""
    text = (Path(__file__).parents[2] / "docs" / "data_formats.md").read_text(encoding="utf-8")
    recipe = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    turns = [
        {"role": "user", "content": "Q?"},
        {"role": "assistant", "content": "### Rationales: r\n### The final answer is: m"},
    ]
    (tmp_path / "mulberry_sft.json").write_text(json.dumps([{"messages": turns, "images": "a.png"}] * 4))
    turns = [{"from": "human", "value": "Q?"}, {"from": "assistant", "value": "<think>t</think>r1"}]
    (tmp_path / "R1-Onevision").mkdir()
    (tmp_path / "R1-Onevision" / "train.jsonl").write_text(json.dumps({"conversations": turns}))
    (tmp_path / "R1-Onevision" / "test.jsonl").write_text("{}")
    (tmp_path / "own.csv").write_text("Bild,Frage,Weg,Antwort\na.png,Q?,so,own\na.png,Q?,,lost\n")
    monkeypatch.chdir(tmp_path)
    data = DataArguments(**recipe)
    check_present(data)
    assert load_data(data)[0]["answer"] == ["m", "m", "r1", "own"]
    assert "own.csv: 1 records skipped (1 no-think)" in caplog.text
    assert data.names == ["mulberry_sft.json", "R1-Onevision:train", "own.csv"]
    assert DataArguments(**dataclasses.asdict(data)) == data
    as_text = [json.dumps(entry) if isinstance(entry, dict) else entry for entry in recipe["dataset"]]
    assert DataArguments(dataset=as_text, dataset_fractions=[0.5, 1, 1]) == data


def test_options_of_a_later_entry_are_looked_at_before_the_first_is_read(tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text("not json\n")
    entries = [str(tmp_path / "a.jsonl"), {"path": str(tmp_path / "b.jsonl"), "answer_from": "after_thin"}]
    with pytest.raises(ConfigError, match=r"dataset .*b\.jsonl: answer_from must be one of tag, .*, not 'after_thin'"):
        load_data(DataArguments(dataset=entries))


def test_options_of_an_entry_win_over_those_of_all(files):
    assert ids(dataset=[{"path": files[0], "limit": 2}, files[1]], limit=1) == ["a0", "a1", "b0"]
    hub = DataArguments(dataset=[{"path": "owner/name", "name": "small"}, {"path": "owner/name", "split": "test"}])
    assert hub.names == ["owner/name:small:train", "owner/name:test"]
    assert DataArguments(dataset={"path": "a.json"}).dataset == [{"path": "a.json"}]


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"answer_from": "boxed"}, "an entry needs a path, a name or file, not {'answer_from': 'boxed'}"),
        ({"path": "a.json", "split": 3}, "an entry needs a path"),
        ({"path": "a.json", "fraction": 0.5}, "fraction is said in dataset_fractions"),
        (
            {"path": "a.json", "data_files": "x"},
            "dataset a.json: an entry has no 'data_files'; it may have path, name,",
        ),
        ({"path": "a.json", "answer_from": 3}, "dataset a.json: answer_from must be text, not 3"),
        ({"path": "a.json", "columns": ["a"]}, "dataset a.json: columns must be a mapping"),
        ('{"path": ', "dataset is not valid JSON"),
    ],
)
def test_entries_that_make_no_sense_are_one_line(entry, complaint):
    with pytest.raises(ConfigError) as caught:
        DataArguments(dataset=["b.json", entry])
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_share_that_leaves_nothing_is_named(files):
    with pytest.raises(DataError, match="holds no example"):
        ids(dataset=files, dataset_fractions=[1.0, 0.05])


@pytest.mark.parametrize("limit", [None, 2, 3])
def test_pictures_in_a_field_that_is_not_read_are_refused_before_the_first_step(files, limit, caplog):
    rows = [json.loads(line) for line in Path(files[0]).read_text().splitlines()]
    lines = [json.dumps({**row, "prompt": "Q?", "images": None, "imgaes": row["images"]}) for row in rows[:3]]
    Path(files[0]).write_text("\n".join(lines))
    with pytest.raises(DataError, match="field imgaes: no record has a picture, but this field, which is not read"):
        ids(dataset=files[:1], limit=limit)
    assert f"in {limit or 3} records the field imgaes is not read; did you mean images?" in caplog.text


def test_rows_without_pictures_are_told_before_training(files, caplog):
    ids(dataset=files[:1])
    assert "pictures" not in caplog.text
    rows = [json.loads(line) for line in Path(files[0]).read_text().splitlines()]
    Path(files[0]).write_text("\n".join(json.dumps({**row, "prompt": "Q?", "images": None}) for row in rows[:3]))
    ids(dataset=files)
    assert "10 of 13 rows have pictures" in caplog.text


def test_no_data_set_is_one_line():
    with pytest.raises(ConfigError, match="no data set given"):
        load_data(DataArguments())


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_picture_stands_on_one_side_of_the_split_only(tmp_path, on_disk):
    """And the choice hangs on the picture alone: rows and their order change nothing."""
    folder = tmp_path / "data" if on_disk else None
    rows = {str(number): example for number, example in enumerate(tiny_examples(60))}
    for number, example in rows.items():
        example.images[0].save(tmp_path / f"{int(number) % 40}.png")
    lines = [json.dumps({**to_trl_row(e), "id": n, "images": [f"{int(n) % 40}.png"]}) for n, e in rows.items()]
    sides = []
    for name, order in (("a", lines), ("b", lines[::-2])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(order))
        kept, held_out = load_data(
            DataArguments(dataset=[str(tmp_path / f"{name}.jsonl")], eval_fraction=0.3), THINK_ANSWER, folder
        )
        sides.append((set(kept["id"]), set(held_out["id"])))
        assert kept.num_rows + held_out.num_rows == len(order)
        assert not {int(n) % 40 for n in kept["id"]} & {int(n) % 40 for n in held_out["id"]}
    assert sides[1][0] < sides[0][0]
    assert sides[1][1] < sides[0][1]


def test_every_row_has_an_id_of_its_own_that_leads_to_its_file(tmp_path):
    """Files of one name in two folders give the same ids, and so may an evaluation set."""
    names = []
    for folder in ("a", "b", "eval"):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "train.jsonl"
        row = {"prompt": f"{folder}?", "completion": "<think>w</think><answer>x</answer>"}
        path.write_text("\n".join(json.dumps(row) for _ in range(3)))
        names.append(str(path))
    origins = Origins()
    data = DataArguments(dataset=names[:2], eval_dataset=names[2])
    train, held_out = load_data(data, THINK_ANSWER, tmp_path / "run", origins)
    given = [*train["id"], *held_out["id"]]
    assert given[:5] == ["train-0", "train-1", "train-2", "train-0#2", "train-1#2"]
    assert len(set(given)) == 9
    assert [origins.of(name, train, held_out) for name in given] == [name for name in names for _ in range(3)]
    assert origins.of("train-9", train, held_out) is None
    assert origins.of(None, train, None) is None


def test_rows_on_disk_are_those_in_memory(files, tmp_path):
    """Beyond one chunk, and over what an earlier attempt has left."""
    lines = Path(files[0]).read_text().splitlines()
    (tmp_path / "many.jsonl").write_text("\n".join(lines * 101))
    data = DataArguments(dataset=[str(tmp_path / "many.jsonl")], system_prompt="Think.")
    in_memory, _ = load_data(data)
    for _ in range(2):
        on_disk, held_out = load_data(data, THINK_ANSWER, tmp_path / "data")
    assert on_disk.cache_files
    remove_data(tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())
    assert held_out is None
    assert on_disk.features == in_memory.features
    assert on_disk.remove_columns("images").to_list() == in_memory.remove_columns("images").to_list()
    shown, other = (open_image(rows[1009]["images"][0], record="r") for rows in (on_disk, in_memory))
    assert (shown.size, shown.tobytes()) == (other.size, other.tobytes())
    assert on_disk[3]["prompt"][0] == {"role": "system", "content": [{"type": "text", "text": "Think."}]}


def test_segments_of_the_run_reach_the_reader(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"prompt": "Q?", "completion": "[why]w[/why][so]x"}))
    segments = (SegmentSpec("why", "[why]", "[/why]"), SegmentSpec("so", "[so]"))
    (row,) = load_data(DataArguments(dataset=[str(path)]), segments)[0]
    assert row["completion"][0]["content"][0]["text"] == "[why]w[/why][so]x"


SEGMENTS = (SegmentSpec("why", "[why]", "[/why]"), SegmentSpec("so", "[so]"))


def test_without_its_trace_a_response_is_its_last_segment(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"prompt": "Q?", "completion": "[why]w[/why][so]x"}))
    (row,) = load_data(DataArguments(dataset=[str(path)], without_think=True), SEGMENTS)[0]
    assert row["completion"][0]["content"][0]["text"] == "[so]x"


def test_a_benchmark_has_segments_of_its_own():
    with pytest.raises(ConfigError, match="the responses of icons are think and answer; leave scale_segments out"):
        load_data(DataArguments(dataset=["icons"]), SEGMENTS)


def test_of_a_benchmark_the_answers_are_taken_where_no_trace_is_asked_for(monkeypatch):
    """So GRPO of a model with segments of its own can learn from it."""
    toy = SimpleNamespace(load=lambda split: tiny_examples(2))
    monkeypatch.setitem(BENCHMARKS, "toy", toy)
    train, _ = load_data(DataArguments(dataset=["toy"], on_missing="train"), SEGMENTS)
    assert [row["completion"][0]["content"][0]["text"] for row in train] == [f"[so]{a}" for a in train["answer"]]


def test_nothing_but_our_own_files_is_touched(files, tmp_path):
    """The user's data may lie in the very folder of the run, whatever it is called."""
    before = sorted(path.name for path in tmp_path.iterdir())
    load_data(DataArguments(dataset=files), THINK_ANSWER, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, ".balanced-rows-train-0.arrow"])
    remove_data(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_folder_that_is_a_file_is_one_line(files):
    with pytest.raises(ConfigError, match=r"a\.jsonl cannot be written .*; choose another output_dir"):
        load_data(DataArguments(dataset=files), THINK_ANSWER, Path(files[0]))


def test_rows_that_cannot_be_removed_are_one_line(tmp_path):
    """Whoever tidies up must not hide by a traceback what was wrong before."""
    (tmp_path / ".balanced-rows-train-0.arrow").mkdir()
    with pytest.raises(ConfigError, match=r"cannot be written .*; choose another output_dir"):
        remove_data(tmp_path)


def test_edited_rows_have_another_digest(files):
    """Settings hold paths only, so a run went on with other data."""

    def digest(**arguments):
        origins = Origins()
        load_data(DataArguments(dataset=files, **arguments), origins=origins)
        return origins.digest

    before = digest()
    assert before == digest() != digest(limit=3)
    text = Path(files[0]).read_text()
    Path(files[0]).write_text(text.replace("colour", "color"))
    assert digest() != before
    Path(files[0]).write_text(text)
    assert digest() == before
    picture = Path(files[1]).with_name("b3.png")
    picture.write_bytes(picture.read_bytes() + b"more")
    assert digest() != before
    assert Origins().digest is None
