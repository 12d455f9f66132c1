"""``core.schedule``: hand-worked weights, the ends, the clamp, every preset, and what is refused."""

import math
import pickle
from fractions import Fraction
from itertools import pairwise

import pytest

from balanced_thinking.core.schedule import PRESETS, SHAPES, SegmentSchedule
from balanced_thinking.errors import ConfigError

# complementary cosine: think = 0.1 + 0.8 * (1 + cos(pi p)) / 2
COMPLEMENTARY = [
    (0.0, 0.9, 0.1),
    (1 / 3, 0.7, 0.3),  # (1 + 1/2) / 2 = 3/4; 0.1 + 0.8 * 0.75
    (0.5, 0.5, 0.5),
    (2 / 3, 0.3, 0.7),  # (1 - 1/2) / 2 = 1/4
    (1.0, 0.1, 0.9),
    (0.25, 0.1 + 0.8 * (2 + math.sqrt(2)) / 4, 0.9 - 0.8 * (2 + math.sqrt(2)) / 4),
]


@pytest.mark.parametrize(("progress", "think", "answer"), COMPLEMENTARY)
def test_complementary_cosine_by_hand(progress, think, answer):
    weights = SegmentSchedule().weights(progress)
    assert weights == pytest.approx({"think": think, "answer": answer}, abs=1e-12)


def test_the_default_is_the_complementary_cosine():
    assert SegmentSchedule() == SegmentSchedule.preset("complementary") == SegmentSchedule(shape="cosine")


@pytest.mark.parametrize("name", list(PRESETS))
@pytest.mark.parametrize("shape", list(SHAPES))
def test_the_start_is_exact_for_every_preset_and_shape(name, shape):
    assert SegmentSchedule.preset(name, shape=shape).weights(0.0) == PRESETS[name]["start"]


@pytest.mark.parametrize("name", list(PRESETS))
@pytest.mark.parametrize("shape", ["cosine", "linear", "step"])
def test_the_end_is_exact_for_every_preset(name, shape):
    assert SegmentSchedule.preset(name, shape=shape).weights(1.0) == PRESETS[name]["end"]


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [
        ("complementary", (0.9, 0.1), (0.1, 0.9)),
        ("full", (1.0, 0.0), (0.0, 1.0)),
        ("think-decay", (1.0, 1.0), (0.3, 1.0)),
        ("dual-ramp", (1.0, 1.0), (0.3, 3.0)),
    ],
)
def test_presets_are_those_of_the_method(name, start, end):
    schedule = SegmentSchedule.preset(name)
    assert tuple(schedule.start.values()) == start
    assert tuple(schedule.end.values()) == end


@pytest.mark.parametrize("progress", [0.0, 0.1, 0.37, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("shape", list(SHAPES))
def test_complementary_weights_always_sum_to_one(progress, shape):
    weights = SegmentSchedule.preset("complementary", shape=shape).weights(progress)
    assert sum(weights.values()) == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize(("progress", "share"), [(0.0, 1), (0.25, Fraction(3, 4)), (0.5, Fraction(1, 2)), (1.0, 0)])
def test_linear_falls_in_proportion(progress, share):
    weights = SegmentSchedule.preset("full", shape="linear").weights(progress)
    assert weights == {"think": float(share), "answer": float(1 - share)}


def test_constant_keeps_the_start_throughout():
    schedule = SegmentSchedule("constant", {"think": 0.5, "answer": 0.5}, {"think": 9.0, "answer": 9.0})
    assert {tuple(schedule.weights(p).values()) for p in (0.0, 0.3, 0.5, 0.99, 1.0)} == {(0.5, 0.5)}


@pytest.mark.parametrize(("progress", "think"), [(0.0, 0.5), (0.499999, 0.5), (0.5, 0.0), (0.75, 0.0), (1.0, 0.0)])
def test_step_changes_at_one_half(progress, think):
    schedule = SegmentSchedule("step", {"think": 0.5, "answer": 0.5}, {"think": 0.0, "answer": 1.0})
    assert schedule.weights(progress)["think"] == think


@pytest.mark.parametrize("progress", [-0.0, -1e-9, -5, -math.inf])
def test_progress_below_zero_is_the_start(progress):
    assert SegmentSchedule().weights(progress) == SegmentSchedule().weights(0.0)


@pytest.mark.parametrize("progress", [1 + 1e-9, 2, 100.0, math.inf])
def test_progress_above_one_is_the_end(progress):
    assert SegmentSchedule().weights(progress) == SegmentSchedule().weights(1.0)


@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_think_never_rises_and_answer_never_falls(shape):
    schedule = SegmentSchedule.preset("complementary", shape=shape)
    steps = [schedule.weights(p / 200) for p in range(201)]
    assert all(a["think"] >= b["think"] and a["answer"] <= b["answer"] for a, b in pairwise(steps))


def test_cosine_is_symmetric_about_the_middle():
    schedule = SegmentSchedule()
    for p in (0.0, 0.1, 0.2, 0.33, 0.45):
        assert schedule.weights(p)["think"] == pytest.approx(schedule.weights(1 - p)["answer"], abs=1e-12)


def test_cosine_is_flat_at_both_ends():
    schedule = SegmentSchedule.preset("full")
    assert 1 - schedule.weights(1e-3)["think"] < 3e-6
    assert schedule.weights(1 - 1e-3)["think"] < 3e-6


def test_key_order_is_that_of_start():
    schedule = SegmentSchedule("linear", {"b": 1.0, "a": 2.0}, {"a": 0.5, "b": 3.0})
    assert list(schedule.weights(0.5)) == ["b", "a"]
    assert schedule.segments == ("b", "a")
    assert list(schedule.end) == ["b", "a"]
    assert schedule.weights(0.5) == {"b": 2.0, "a": 1.25}


def test_four_segments():
    names = ["summary", "caption", "reasoning", "conclusion"]
    schedule = SegmentSchedule("linear", dict.fromkeys(names, 1.0), {**dict.fromkeys(names, 0.0), "conclusion": 1.0})
    assert schedule.weights(0.25) == {"summary": 0.75, "caption": 0.75, "reasoning": 0.75, "conclusion": 1.0}


def test_whole_numbers_become_floats():
    schedule = SegmentSchedule("linear", {"think": 1, "answer": 0}, {"think": 0, "answer": 1})
    assert all(type(value) is float for value in schedule.weights(0).values())


def test_changing_the_dictionary_later_changes_nothing():
    start = {"think": 0.9, "answer": 0.1}
    schedule = SegmentSchedule(start=start)
    start["think"] = 5.0
    assert schedule.weights(0.0)["think"] == 0.9


def test_what_weights_returns_is_the_callers_own():
    schedule = SegmentSchedule()
    schedule.weights(0.0)["think"] = 7.0
    assert schedule.weights(0.0)["think"] == 0.9


def test_it_survives_pickling():
    schedule = SegmentSchedule.preset("dual-ramp", shape="linear")
    assert pickle.loads(pickle.dumps(schedule)) == schedule


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": "cubic"}, "shape 'cubic' is unknown; choose one of cosine"),
        ({"start": {}}, "start must map segment names"),
        ({"start": [0.9, 0.1]}, "start must map segment names"),
        ({"end": None}, "end must map segment names"),
        ({"start": {"think": -0.1, "answer": 0.1}}, "'think' must be a finite number >= 0"),
        ({"start": {"think": math.nan, "answer": 0.1}}, "finite"),
        ({"end": {"think": 0.1, "answer": math.inf}}, "finite"),
        ({"start": {"think": "0.9", "answer": 0.1}}, "not '0.9'"),
        ({"start": {"think": True, "answer": 0.1}}, "not True"),
        ({"start": {"think": None, "answer": 0.1}}, "not None"),
        ({"start": {"think": 0.9}}, "the same names"),
        ({"start": {"think": 0.9, "reply": 0.1}}, "the same names"),
        ({"start": {"think": 0.0, "answer": 0.0}}, "every segment the weight 0"),
        ({"end": {"think": 0, "answer": 0}}, "every segment the weight 0"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        SegmentSchedule(**arguments)


def test_an_end_of_zeros_is_fine_where_it_is_never_reached():
    schedule = SegmentSchedule("constant", {"think": 1.0, "answer": 1.0}, {"think": 0.0, "answer": 0.0})
    assert schedule.weights(1.0) == {"think": 1.0, "answer": 1.0}


@pytest.mark.parametrize("progress", [math.nan, None, "0.5", True, [0.5]])
def test_progress_must_be_a_number(progress):
    with pytest.raises(ConfigError, match="progress must be a number"):
        SegmentSchedule().weights(progress)


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"'ramp' is unknown; choose one of complementary, full, think-decay"):
        SegmentSchedule.preset("ramp")


@pytest.mark.parametrize("name", PRESETS)
def test_segments_before_the_last_share_the_weight_of_the_trace(name):
    two = SegmentSchedule.preset(name)
    four = SegmentSchedule.preset(name, segments=("summary", "caption", "reasoning", "conclusion"))
    for progress in (0.0, 0.25, 1.0):
        *trace, answer = four.weights(progress).values()
        assert sum(trace) == pytest.approx(two.weights(progress)["think"], abs=1e-15)
        assert len(set(trace)) == 1
        assert answer == two.weights(progress)["answer"]


def test_a_preset_needs_a_trace_and_an_answer():
    with pytest.raises(ConfigError, match="give at least two segments"):
        SegmentSchedule.preset("complementary", segments=("answer",))


@pytest.mark.parametrize("segments", [(), ("a", "a"), "abc"])
def test_segments_of_a_preset_are_names_of_their_own(segments):
    with pytest.raises(ConfigError, match="give at least two segments, not"):
        SegmentSchedule.preset("complementary", segments=segments)
