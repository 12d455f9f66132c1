"""``data.formats.jsontext``: the values of a JSON file one at a time, as Python's own parser reads the whole."""

import json
import random
import tracemalloc

import pytest

from balanced_thinking.data.formats import jsontext
from balanced_thinking.data.formats.jsontext import read_values
from balanced_thinking.data.formats.source import read_file
from balanced_thinking.errors import DataError

PIECES = ["\\", '"', "é", "😀", "\u2028", "[", "}", ",", ":", "x" * 9, "\n"]


def random_value(dice, depth=0):
    kind = dice.randrange(7 if depth < 3 else 5)
    if kind == 0:
        return dice.choice([None, True, False])
    if kind == 1:
        return dice.choice([0, -1, 12345678901234567890, 1.5, -2e-9, float("inf")])
    if kind < 5:
        return "".join(dice.choice(PIECES) for _ in range(dice.randrange(9)))
    inner = [random_value(dice, depth + 1) for _ in range(dice.randrange(4))]
    return inner if kind == 5 else {f"k{n}": value for n, value in enumerate(inner)}


@pytest.mark.parametrize("block", [1, 7, 64])
def test_values_are_those_of_the_whole_wherever_blocks_end(tmp_path, monkeypatch, block):
    monkeypatch.setattr(jsontext, "_BLOCK", block)
    dice, path = random.Random(block), tmp_path / "a.json"
    for _ in range(300):
        values = [random_value(dice) for _ in range(dice.randrange(5))]
        path.write_text(json.dumps(values, indent=dice.choice([None, 1]), ensure_ascii=dice.random() < 0.5), "utf-8")
        assert list(read_values(path)) == values
        records = {f"r{n}": {"v": value} for n, value in enumerate(values)}
        path.write_text(json.dumps(records), encoding="utf-8")
        assert list(read_values(path)) == [{"id": name, **record} for name, record in records.items()]


NO_JSON = ["[1, 2", "[1 2]", "[1,]", "[1, nul]", '["a]', '[{"a" 1}]', "[1}", "[1] 2", '{"a": {}, 1: {}}']


@pytest.mark.parametrize("text", NO_JSON)
def test_what_is_no_json_is_one_line(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(f"\n{text}")
    with pytest.raises(DataError, match=r"a\.json: not JSON \([^;]*, line 2\); write the file again"):
        list(read_values(path))


@pytest.mark.parametrize("block", [64, 1 << 18])
@pytest.mark.parametrize("depth", [5_000, 100_000])
def test_endless_nesting_is_a_fault_of_its_record(tmp_path, monkeypatch, depth, block):
    """It took the square of the depth in memory, and the machine with it."""
    monkeypatch.setattr(jsontext, "_BLOCK", block)
    deep, path = f'{{"id": "x", "q": {"[" * depth}"]\\""{"]" * depth}}}', tmp_path / "a.json"
    for text in (f'[{{"id": "a"}}, {deep}, {{"id": "b"}}]', f'{{"a": {{"v": 1}}, "x": {deep}, "b": {{"v": 1}}}}'):
        path.write_text(text)
        tracemalloc.start()
        records = list(read_file(path))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000 + 20 * len(text)
        tracemalloc.stop()
        assert [record.fields.get("id") for record in records] == ["a", None, "b"]
        assert "record row 1: lists or objects are nested too deeply; take the inner levels out" in str(
            records[1].fault
        )


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("broken", ['"un', "\xff}", "[" * 5000 + "]" * 5000 + "}"])
def test_a_broken_first_line_is_one_fault_whatever_the_file_is_called(tmp_path, name, broken):
    path, broken = tmp_path / name, f'{{"id": "x", "q": {broken}'
    path.write_bytes(f'{broken}\n{{"id": "y"}}\n'.encode("latin-1"))
    first, second = read_file(path)
    assert (second.fields, second.label) == ({"id": "y"}, "line 2")
    assert str(first.fault).startswith(f"{path}, record line 1: ")
    path.write_bytes(broken.encode("latin-1") + b"\n")
    assert [record.label for record in read_file(path)] == ["line 1"]


def test_nan_keeps_the_memory_constant(tmp_path):
    """The file was read as a whole."""
    path, peaks = tmp_path / "a.json", []
    for count in (8_000, 32_000):
        path.write_text(json.dumps([{"id": n, "text": "word " * 100, "x": float("nan")} for n in range(count)]))
        tracemalloc.start()
        assert sum(record.fault is None for record in read_file(path)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_a_number_of_thousands_of_digits_is_a_fault_of_its_record(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(f'[{{"n": {"7" * 5000}}}, {{"n": 1}}]')
    first, second = read_file(path)
    assert "row 0: not JSON (Exceeds the limit" in str(first.fault)
    assert second.fields == {"n": 1}


@pytest.mark.parametrize("block", [1, 5, 1 << 18])
def test_a_byte_that_is_not_utf8_is_a_fault_of_its_record(tmp_path, monkeypatch, block):
    monkeypatch.setattr(jsontext, "_BLOCK", block)
    path = tmp_path / "a.json"
    path.write_bytes(
        "\ufeff".encode() + '[{"a": "é"}, {"a": "'.encode() + b'\xe9"}, {"a": "' + 'é\U0001f600"}]'.encode()
    )
    records = list(read_file(path))
    assert [record.fields for record in records] == [{"a": "é"}, {}, {"a": "é\U0001f600"}]
    assert str(records[1].fault) == f"{path}, record row 1: not UTF-8 (byte 0xe9); save the file as UTF-8"
