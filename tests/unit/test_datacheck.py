"""``data.datacheck``: what is kept, skipped and counted, and the one line that names the first of many faults."""

import io
import json
import logging
import re
import subprocess
import sys

import pytest
from PIL import Image

from balanced_thinking.core.segments import THINK_ANSWER, SegmentSpec
from balanced_thinking.data import datacheck
from balanced_thinking.data.datacheck import CheckReport, check_rows
from balanced_thinking.data.records import to_dataset
from balanced_thinking.errors import ConfigError, DataError, SegmentError
from tiny import tiny_examples

GOOD = "<think>a</think><answer>b</answer>"
NO_THINK = "<answer>b</answer>"
NO_ANSWER = "<think>a</think>b"
LONG = GOOD.replace(">a<", f">{'a' * 101}<")


def rows(*responses, **columns):
    return [{"id": f"r{i}", "prompt": "Q?", "completion": text, **columns} for i, text in enumerate(responses)]


def check(data, **options):
    return check_rows(data, **{"segments": THINK_ANSWER, "progress": False, **options})


def length(row, sizes):
    return len(row.response)


def fault(data, **options):
    with pytest.raises(DataError) as caught:
        check(data, **options)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_faultless_data_set_is_kept_whole():
    assert check(rows(GOOD, GOOD)) == CheckReport([0, 1], {}, checked=2, total=2, unchecked=0)


def test_a_real_dataset_is_read():
    examples = tiny_examples(7)
    seen = []

    def count(row, sizes):
        seen.append((row.id, sizes))
        return 5

    report = check(to_dataset(examples), count_tokens=count)
    assert report.kept == list(range(7))
    assert seen == [(example.id, [example.images[0].size]) for example in examples]


def test_pictures_of_a_dataset_are_not_decoded(monkeypatch):
    from datasets import Image as ImageFeature

    def refuse(*_, **__):
        raise AssertionError("decoded")

    data = to_dataset(tiny_examples(3))
    monkeypatch.setattr(ImageFeature, "decode_example", refuse)
    monkeypatch.setattr(Image.Image, "load", refuse)
    assert check(data).checked == 3


def test_selected_and_shuffled_rows_are_those_checked():
    data = to_dataset(tiny_examples(6)).select([4, 1, 5])
    seen = []
    check(data, count_tokens=lambda row, sizes: seen.append(row.id) or 1)
    assert seen == ["tiny-0004", "tiny-0001", "tiny-0005"]


def test_a_dataset_with_its_own_transform_is_asked_for_its_rows():
    from datasets import Dataset

    data = Dataset.from_dict({"x": [1, 2]}).with_transform(
        lambda batch: {"prompt": ["Q?"] * len(batch["x"]), "completion": [GOOD] * len(batch["x"])}
    )
    assert check(data).kept == [0, 1]


# Malformed responses --------------------------------------------------------------------------------------------------


def test_one_malformed_row_is_an_error_of_its_kind():
    error = fault(rows(GOOD, NO_THINK))
    assert isinstance(error, SegmentError)
    assert error.kind == "no-think"
    assert str(error) == (
        "record r1: the response has no <think>; add the segment, or leave the row out, "
        "or set scale_on_malformed=skip to leave such rows out"
    )


def test_of_many_the_first_is_named_and_the_others_are_counted():
    line = str(fault(rows(GOOD, NO_ANSWER, NO_THINK, NO_THINK, GOOD)))
    assert line.startswith(
        "record r1: the response has no <answer> (the first of 3 faulty rows: 2 no-think, 1 no-answer)"
    )


def test_skipped_rows_are_listed_by_kind():
    report = check(rows(NO_THINK, GOOD, NO_ANSWER, NO_THINK), on_malformed="skip")
    assert report.kept == [1]
    assert report.skipped == {"no-think": ["r0", "r3"], "no-answer": ["r2"]}
    assert report.malformed == {}


def test_kept_rows_are_counted():
    report = check(rows(NO_THINK, GOOD, NO_ANSWER), on_malformed="keep")
    assert report.kept == [0, 1, 2]
    assert report.skipped == {}
    assert report.malformed == {"no-think": 1, "no-answer": 1}


@pytest.mark.parametrize("on_malformed", ["error", "skip", "keep"])
def test_a_loss_without_segments_requires_none(on_malformed):
    report = check(rows("b", GOOD), on_malformed=on_malformed, require_segments=False)
    assert report.kept == [0, 1]
    assert report.malformed == {"no-think": 1}


def test_other_segments_are_looked_for_as_given():
    specs = (SegmentSpec("plan", "[p]", "[/p]"), SegmentSpec("reply", "[r]"))
    report = check(rows("[p]a[/p][r]b", GOOD), segments=specs, on_malformed="skip")
    assert report.kept == [0]
    assert report.skipped == {"no-plan": ["r1"]}


def test_when_all_rows_are_skipped_nothing_can_be_trained():
    line = str(fault(rows(NO_THINK, NO_ANSWER), on_malformed="skip"))
    assert line == "no row is left: all 2 were skipped (1 no-think, 1 no-answer); mend the data set"


# Length ---------------------------------------------------------------------------------------------------------------


def test_lengths_are_summed_up_by_hand():
    # 1..20: median 10.5 -> 10 (to even), 95 % of 20 rows are 19
    counted = iter(range(1, 21))
    report = check(rows(*[GOOD] * 20), count_tokens=lambda row, sizes: next(counted))
    assert report.lengths == {"min": 1, "median": 10, "p95": 19, "max": 20}


def test_one_row_has_one_length():
    assert set(check(rows(GOOD), count_tokens=length).lengths.values()) == {len(GOOD)}


def test_without_a_counter_there_are_no_lengths_and_no_overflow():
    assert check(rows(GOOD), max_length=1).lengths == {}


def test_a_row_that_just_fits_is_kept_and_one_token_more_is_an_error():
    assert check(rows(GOOD), count_tokens=length, max_length=len(GOOD)).kept == [0]
    assert str(fault(rows(GOOD), count_tokens=length, max_length=len(GOOD) - 1)) == (
        "record r0: 34 tokens, but max_length is 33: the end of the response would be cut off; "
        "raise max_length, or set scale_on_overflow=skip to leave such rows out"
    )


def test_long_rows_can_be_skipped_and_do_not_count_in_the_lengths():
    report = check(rows(GOOD, LONG), count_tokens=length, max_length=50, on_overflow="skip")
    assert report.kept == [0]
    assert report.skipped == {"overflow": ["r1"]}
    assert report.lengths["max"] == len(GOOD)


def test_a_malformed_row_is_not_counted_twice():
    report = check(rows(GOOD, "x" * 99), count_tokens=length, max_length=50, on_malformed="skip", on_overflow="skip")
    assert report.skipped == {"no-think": ["r1"]}


def test_skipping_one_kind_does_not_hide_another():
    line = str(fault(rows(GOOD, NO_THINK, LONG), count_tokens=length, max_length=50, on_malformed="skip"))
    assert line.startswith("record r2: 134 tokens")


# Rows and pictures that cannot be used --------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"on_malformed": "skip", "on_overflow": "skip"}, {"on_malformed": "keep"}])
def test_a_row_that_cannot_be_read_is_always_an_error(options):
    data = [*rows(GOOD), {"text": "x"}, {"prompt": "Q?", "completion": GOOD, "image": "none.png"}]
    line = str(fault(data, **options))
    assert line.startswith("record row 1, field text: a text column")
    assert "(the first of 2 faulty rows: 1 unusable row, 1 unreadable picture)" in line


def test_a_broken_picture_in_a_dataset_is_named(tmp_path):
    example = tiny_examples(1)[0]
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), (1, 2, 3)).save(stream, "PNG")
    from dataclasses import replace

    data = to_dataset([example, replace(example, id="cut", images=(stream.getvalue()[:-30],))])
    assert str(fault(data)).startswith("record cut, field images: the picture cannot be read")


def test_placeholders_are_counted():
    data = [{"prompt": [{"role": "user", "content": [{"type": "image"}]}], "completion": [], "image": None}]
    data[0]["completion"] = [{"role": "assistant", "content": GOOD}]
    assert "1 image placeholder but no pictures" in str(fault(data))


def test_after_many_faults_it_stops_and_says_so():
    line = str(fault(rows(*[NO_THINK] * 250)))
    assert "(the first of 100 faulty rows: 100 no-think; 150 rows not looked at)" in line


def test_faults_of_the_counter_pass_through():
    def broken(row, sizes):
        raise ConfigError("the chat template is unfit")

    with pytest.raises(ConfigError, match="unfit"):
        check(rows(GOOD), count_tokens=broken)


# Limit and options ----------------------------------------------------------------------------------------------------


def test_rows_beyond_the_limit_are_kept_unchecked():
    report = check(rows(NO_THINK, GOOD, NO_THINK, NO_THINK), limit=2, on_malformed="skip")
    assert (report.kept, report.checked, report.total, report.unchecked) == ([1, 2, 3], 2, 4, 2)


def test_a_limit_beyond_the_rows_is_no_limit():
    report = check(rows(GOOD), limit=10)
    assert (report.checked, report.unchecked) == (1, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_malformed": "drop"}, "on_malformed must be one of error, skip, keep, not 'drop'"),
        ({"on_overflow": "keep"}, "on_overflow must be one of error, skip, not 'keep'"),
        ({"limit": 0}, "limit must be a whole number of at least 1, not 0"),
        ({"limit": 1.5}, "limit must be"),
        ({"limit": True}, "limit must be"),
        ({"segments": ()}, "at least one segment"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ConfigError, match=message):
        check(rows(GOOD), **options)


def test_an_empty_data_set_is_an_error():
    assert str(fault([])) == "the data set is empty; give at least one row"


def test_a_streamed_data_set_cannot_be_checked_ahead():
    from datasets import IterableDataset

    with pytest.raises(ConfigError, match="scale_check=lazy"):
        check(IterableDataset.from_generator(lambda: iter(rows(GOOD))))


# What the user sees ---------------------------------------------------------------------------------------------------


def test_the_line_tells_everything():
    report = CheckReport(
        [0, 5, 6],
        {"no-think": ["a", "b"], "overflow": ["c"]},
        checked=5,
        total=7,
        unchecked=2,
        lengths={"min": 3, "median": 5, "p95": 1200, "max": 2000},
        malformed={"order": 1},
        pictured=1,
    )
    assert report.line() == (
        "checked 5 of 7 rows, 1 kept (1 with pictures); 3 skipped (2 no-think, 1 overflow); "
        "1 kept though malformed (1 order); 2 not checked (beyond the limit); "
        "tokens: shortest 3, median 5, 95 % up to 1,200, longest 2,000"
    )


def test_outside_a_terminal_one_line_goes_to_stderr(capsys):
    check(rows(GOOD, NO_THINK), on_malformed="skip", progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("checked 2 of 2 rows, 1 kept (0 with pictures); 1 skipped (1 no-think) (")
    assert captured.err.count("\n") == 1


def test_outside_a_terminal_many_rows_are_foretold(monkeypatch, capsys):
    monkeypatch.setattr(datacheck, "_TOLD_AFTER", 3)
    check(rows(*[GOOD] * 9), progress=True)
    first, last = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"checking rows: 3 of 9 in \d+ s, about \d+ s to go", first)
    assert last.startswith("checked 9 of 9 rows")


def test_on_a_terminal_there_is_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert check(rows(GOOD, GOOD), progress=True).kept == [0, 1]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "checked 2 of 2 rows, 2 kept" in captured.err


def test_without_progress_skipped_rows_are_still_told(caplog, capsys):
    with caplog.at_level(logging.WARNING):
        check(rows(GOOD, NO_THINK), on_malformed="skip")
        check(rows(GOOD))
    line = "checked 2 of 2 rows, 1 kept (0 with pictures); 1 skipped (1 no-think)"
    assert [record.message for record in caplog.records] == [line]
    assert capsys.readouterr().err == ""


def test_the_maximum_of_faults_is_a_number_people_can_wait_for():
    assert 10 <= datacheck.MAX_FAULTS <= 1000


def test_twenty_thousand_rows_take_seconds_not_minutes(tmp_path):
    import time

    Image.new("RGB", (64, 64), (1, 2, 3)).save(tmp_path / "a.png")
    data = rows(*[GOOD] * 4000, image=str(tmp_path / "a.png"))
    started = time.process_time()
    assert check(data).checked == 4000
    assert time.process_time() - started < 12  # a fifth of the rows in a fifth of a minute


def test_it_needs_no_torch():
    code = (
        "import json, sys; from balanced_thinking.core.segments import THINK_ANSWER\n"
        "from balanced_thinking.data.datacheck import check_rows\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'PIL', 'pyarrow', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from datasets import Dataset\n"
        f"check_rows(Dataset.from_list(json.loads({json.dumps(json.dumps(rows(GOOD)))})), segments=THINK_ANSWER)\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
