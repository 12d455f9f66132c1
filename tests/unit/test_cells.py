"""``data.formats.cells``: what parts the cells of a table, and where its rows begin."""

import io
from pathlib import Path

import pytest

from balanced_thinking.data.formats.cells import read_rows, separator_of
from balanced_thinking.data.formats.source import read_file
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
    assert separator_of(file, usual) == (separator, 0)
    assert file.tell() == 0


def test_a_line_of_excel_before_the_header_names_the_separator(tmp_path):
    """It was read as the header, and each row had a wrong number of cells."""
    file = tmp_path / "t.csv"
    for line, separator in (("sep=;", ";"), ('"sep=|"', "|"), ("SEP=,", ",")):
        rows = ["question;reasoning;answer", "Q?;r;x", "Q?;x"]
        file.write_text("\r\n".join([line, *rows]).replace(";", separator))
        assert [record.fields or str(record.fault).split(": ")[0] for record in read_file(file)] == [
            {"question": "Q?", "reasoning": "r", "answer": "x"}, f"{file}, record line 4",
        ]  # fmt: skip


def test_a_byte_that_is_not_utf8_is_a_fault_of_its_row(tmp_path):
    file = tmp_path / "t.csv"
    file.write_bytes(b"question,answer\nQ?,x\nQ?,\xe4\nQ?,y\n")
    records = list(read_file(file))
    assert [record.fields.get("answer") for record in records] == ["x", None, "y"]
    assert str(records[1].fault) == f"{file}, record line 3: not UTF-8 (byte 0xe4); save the file as UTF-8"
    file.write_bytes("question,ä\nQ?,x\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"record line 1: not UTF-8 \(byte 0xe4\)"):
        list(read_file(file))


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
