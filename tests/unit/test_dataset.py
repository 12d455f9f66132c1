"""Where a run takes its rows from: several data sets mixed, shares of them, splits by picture."""

import json

import pytest

from balanced_thinking.data.records import to_trl_row
from balanced_thinking.errors import ConfigError, DataError
from balanced_thinking.training.dataset import DataArguments, load_data, split_by_picture
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


@pytest.mark.parametrize(
    ("fractions", "complaint"),
    [([0.5], "1 entries for 2 data sets"), ([0.5, 0.0], "above 0"), ([1.5, 0.5], "at most at 1")],
)
def test_shares_are_checked(files, fractions, complaint):
    with pytest.raises(ConfigError, match=complaint):
        DataArguments(dataset=files, dataset_fractions=fractions)


def test_a_share_that_leaves_nothing_is_named(files):
    with pytest.raises(DataError, match="holds no example"):
        ids(dataset=files, dataset_fractions=[1.0, 0.05])


def test_no_data_set_is_one_line():
    with pytest.raises(ConfigError, match="no data set given"):
        load_data(DataArguments())


def test_a_picture_stands_on_one_side_of_the_split_only():
    examples = list(tiny_examples(60))
    kept, held_out = split_by_picture(examples, 0.3)
    assert len(kept) + len(held_out) == 60
    assert not {e.images[0].tobytes() for e in kept} & {e.images[0].tobytes() for e in held_out}
