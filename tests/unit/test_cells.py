"""``data.formats.cells``: what parts the cells of a table, and where its rows begin."""

import io
from pathlib import Path

import pytest

from balanced_thinking.data.formats.cells import read_rows, separator_of
from balanced_thinking.errors import DataError

PATH = Path("t.csv")


@pytest.mark.parametrize(
    ("header", "usual", "separator"),
    [
        ("a,b", ",", ","),
        ("a;b", ",", ";"),
        ("a\tb", ",", "\t"),
        ("a,b;c;d", ",", ","),
        ('"a, b";c', ",", ";"),
        ("a\tb,c,d", "\t", "\t"),
        ("a;b", "\t", ";"),
        ("alone", ",", ","),
        ("", "\t", "\t"),
    ],
)
def test_the_header_tells_what_parts_the_cells(header, usual, separator):
    file = io.StringIO(f"{header}\n1;2;3;4\n")
    assert separator_of(file, usual) == separator
    assert file.tell() == 0


def test_rows_are_named_by_the_line_in_which_they_begin():
    text = 'a;b\n\n1;"two\nlines"\n"3" x;4\n5;6;7\n8;9\n10;"never\nclosed\n'
    rows = list(read_rows(io.StringIO(text), ";", PATH))
    assert [line for line, _ in rows] == [3, 5, 6, 7, 8]
    assert [row for _, row in rows if not isinstance(row, DataError)] == [
        {"a": "1", "b": "two\nlines"}, {"a": "8", "b": "9"},
    ]  # fmt: skip
    faults = [str(row).split("; ")[0] for _, row in rows if isinstance(row, DataError)]
    assert faults == [
        "t.csv, record line 5: not a row of a table (';' expected after '\"')",
        "t.csv, record line 6: the row has not as many cells as the header (2): it has 3",
        "t.csv, record line 8: not a row of a table (unexpected end of data, read to line 9)",
    ]


def test_a_header_that_cannot_be_used_is_one_line():
    with pytest.raises(DataError, match="record line 1: not a row of a table"):
        list(read_rows(io.StringIO('a,"b'), ",", PATH))
