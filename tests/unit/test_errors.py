"""``errors``: one family, one line each, with every part that is known and none that is not."""

import pickle
from pathlib import Path

import pytest

from balanced_thinking import errors
from balanced_thinking.errors import BalancedThinkingError, DataError, SegmentError

FAMILY = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, BalancedThinkingError)
]


@pytest.mark.parametrize("error", FAMILY)
def test_each_is_a_value_error_and_drawn_into_the_tree(error):
    assert issubclass(error, ValueError)
    assert error.__name__ in errors.__doc__
    assert error.__doc__


def test_all_parts_stand_in_one_line():
    error = DataError("wrong", file="a.jsonl", record=3, field="image", remedy="mend it")
    assert str(error) == "a.jsonl, record 3, field image: wrong; mend it"


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({}, "wrong"),
        ({"remedy": "mend it"}, "wrong; mend it"),
        ({"file": Path("d/a.json")}, "d/a.json: wrong"),
        ({"record": 0}, "record 0: wrong"),
        ({"record": "x7", "remedy": "mend it"}, "record x7: wrong; mend it"),
        ({"field": "answer"}, "field answer: wrong"),
        ({"file": "f", "field": "answer"}, "f, field answer: wrong"),
    ],
)
def test_parts_that_are_not_known_leave_no_trace(parts, text):
    assert str(DataError("wrong", **parts)) == text


def test_line_ends_in_the_data_do_not_break_the_line():
    error = DataError("bad\nvalue\t'x'", record="a\nb", remedy="do\nthis")
    assert str(error) == "record a b: bad value 'x'; do this"


def test_parts_can_be_read():
    error = DataError("wrong", file="f", record=1, field="g", remedy="h")
    assert (error.message, error.file, error.record, error.field, error.remedy) == ("wrong", "f", 1, "g", "h")


def test_at_fills_in_the_place_and_keeps_what_was_known():
    error = DataError("wrong", record=1, field="g", remedy="h")
    assert str(error.at(file="f", record=2)) == "f, record 1, field g: wrong; h"
    assert str(error.at(file="f").at(file="other")) == "f, record 1, field g: wrong; h"
    assert str(error) == "record 1, field g: wrong; h"


def test_at_keeps_record_zero():
    assert str(DataError("wrong", record=0).at(record=5)) == "record 0: wrong"


def test_at_keeps_the_class_and_kind_of_a_segment_error():
    error = SegmentError("none", kind="no-answer", remedy="add it").at(record=4)
    assert type(error) is SegmentError
    assert error.kind == "no-answer"
    assert str(error) == "record 4: none; add it"


def test_the_whole_family_is_caught_by_its_base():
    with pytest.raises(BalancedThinkingError, match="none"):
        raise SegmentError("none", kind="no-think")


@pytest.mark.parametrize(
    "error", [DataError("wrong", record=1, remedy="h"), SegmentError("none", kind="order", file="f")]
)
def test_they_cross_process_borders(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
