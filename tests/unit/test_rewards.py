"""Rewards: what each kind of completion earns, and what a reward of a user may not do."""

import asyncio
import math
import pickle
import sys

import pytest

from balanced_thinking.core.segments import LLAVA_COT, scan_segments
from balanced_thinking.errors import ConfigError
from balanced_thinking.training.rewards import (
    CheckedReward,
    accuracy_reward,
    format_reward,
    hard_reward,
    load_rewards,
    try_rewards,
)

RIGHT = "<think>two\nlines</think>\n<answer>\n7\n</answer>"
ROW = {"prompt": [{"role": "user", "content": "?"}], "answer": "7", "kind": "number", "choices": None, "id": "a"}


def turns(*texts):
    return [[{"role": "assistant", "content": text}] for text in texts]


@pytest.mark.parametrize(
    ("text", "accuracy", "form"),
    [
        (RIGHT, 1.0, 1.0),
        ("<think>t</think><answer>8</answer>", 0.0, 1.0),
        ("<think></think><answer>7</answer>", 1.0, 1.0),
        ("<answer>7</answer>", 1.0, 0.0),
        ("7", 1.0, 0.0),
        ("<think>t</think>7", 0.0, 0.0),
        ("<think>t</think><answer>7", 1.0, 0.0),
        ("<think>t</think><answer></answer>", 0.0, 0.0),
        ("<think>t</think><answer>7</answer><answer>7</answer>", 1.0, 0.0),
        ("<think>t</think><think>t</think><answer>7</answer>", 1.0, 0.0),
        ("<answer>7</answer><think>t</think>", 0.0, 0.0),
        ("", 0.0, 0.0),
        ("\n<think>t</think>\n\n<answer>7</answer>\n", 1.0, 1.0),
        # Words outside would be a second place for an answer.
        ("well <think>t</think><answer>7</answer>", 1.0, 0.0),
        ("<think>t</think> so <answer>7</answer>", 1.0, 0.0),
        ("<think>t</think><answer>7</answer> The answer is: 8", 1.0, 0.0),
    ],
)
def test_what_a_completion_earns(text, accuracy, form):
    columns = {"answer": ["7"], "kind": ["number"]}
    for completions in ([text], turns(text)):
        assert accuracy_reward(completions, **columns) == [accuracy]
        assert format_reward(completions) == [form]
        assert hard_reward(completions, **columns) == [accuracy * form]


def test_a_prefilled_tag_is_part_of_the_form():
    text = "t</think><answer>7</answer>"
    assert format_reward([text]) == [0.0]
    assert format_reward([text], prefix="<think>\n") == [1.0]
    (reward,) = load_rewards(["hard"], prefix="<think>")
    assert reward(completions=turns(text), prompts=[None], answer=["7"], kind=["number"], id=["a"]) == [1.0]


def test_choices_and_rows_without_reference():
    columns = {"answer": ["B", None], "kind": ["choice", "text"], "choices": [["a cat", "a dog"], None]}
    completions = turns("<think>t</think><answer>a dog</answer>", RIGHT)
    assert accuracy_reward(completions, **columns) == [1.0, None]
    assert hard_reward(completions, **columns) == [1.0, None]


def test_rewards_can_be_pickled_and_are_named():
    rewards = load_rewards(["accuracy", "format", "hard", "soft_overlong"], max_completion_length=100)
    assert [reward.__name__ for reward in rewards] == ["accuracy", "format", "hard", "soft_overlong"]
    again = pickle.loads(pickle.dumps(rewards))
    assert again[1](completions=turns(RIGHT)) == [1.0]


def test_a_cache_as_long_as_the_cap_is_refused():
    with pytest.raises(ConfigError, match=r"overlong_cache 100 .* smaller than max_completion_length \(100\)"):
        load_rewards(["soft_overlong"], max_completion_length=100, overlong_cache=100)


def test_soft_overlong_is_daps_equation_13():
    """Cap 100, a cache of 20: nothing up to 80 tokens, -1 at the cap, straight between."""
    (reward,) = load_rewards(["soft_overlong"], max_completion_length=100)
    ids = [[1] * n for n in (80, 90, 100, 120)]
    assert reward(completions=turns(*"abcd"), completion_ids=ids) == [0.0, -0.5, -1.0, -1.0]


@pytest.mark.parametrize(
    ("result", "complaint"),
    [
        ([1.0], "1 values for 2"),
        ([1.0, math.nan], "NaN"),
        ([1.0, math.inf], "infinity"),
        (["a", 1.0], "numbers"),
        (None, "numbers"),
        (0.5, "numbers"),
        ("11", "numbers"),
        ({0: 1.0, 1: 1.0}, "numbers"),
    ],
)
def test_a_reward_that_answers_wrongly_is_named(result, complaint):
    reward = CheckedReward("mine", lambda **columns: result)
    with pytest.raises(ConfigError, match=f"mine.*{complaint}"):
        reward(completions=turns("a", "b"))
    with pytest.raises(ConfigError, match="mine"):
        try_rewards([reward], ROW)


def test_none_is_let_through():
    assert CheckedReward("mine", lambda **columns: [None, 2])(completions=turns("a", "b")) == [None, 2.0]


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(
        "def short(completions, answer, **columns):\n"
        "    return [float(len(c[-1]['content']) < 30) for c in completions]\n"
        "async def slow(completions, **columns):\n    return [0.5] * len(completions)\n"
        "def broken(completions, no_such_column, **columns):\n    return [0.0] * len(completions)\n"
        "accuracy = short\n"
        "value = 3\n"
    )
    (tmp_path / "torn_rewards.py").write_text("def x(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    yield
    sys.modules.pop("my_rewards", None)


def test_rewards_of_users_by_dotted_path(own_module):
    short, slow = load_rewards(["my_rewards.short", "my_rewards.slow"])
    try_rewards([short, slow], ROW)
    assert (short.__name__, slow.__name__) == ("short", "slow")
    assert short(completions=turns("x", "y" * 40), answer=["7", "7"]) == [1.0, 0.0]
    assert asyncio.run(slow(completions=turns("x"))) == [0.5]
    names = [reward.__name__ for reward in load_rewards(["my_rewards.short", "accuracy", "my_rewards.accuracy"])]
    assert names == ["short", "accuracy", "my_rewards.accuracy"]
    with pytest.raises(ConfigError, match=r"broken failed on a trial.*no_such_column.*answer, kind"):
        try_rewards(load_rewards(["my_rewards.broken"]), ROW)


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        ([], "no reward"),
        (["accuracy", "accuracy"], "twice"),
        (["acuracy"], "unknown.*accuracy, format, hard"),
        (["no.such.module"], "cannot be imported"),
        (["..x"], "cannot be imported"),
        (["torn_rewards.x"], "cannot be imported: SyntaxError"),
        (["my_rewards.nothing"], "cannot be imported"),
        (["my_rewards.value"], "not a function"),
        (["soft_overlong"], "max_completion_length"),
    ],
)
def test_names_that_lead_nowhere(own_module, names, complaint):
    with pytest.raises(ConfigError, match=complaint):
        load_rewards(names)


def test_rewards_read_the_segments_that_they_are_given():
    stages = "<SUMMARY>s</SUMMARY><CAPTION>c</CAPTION><REASONING>r</REASONING><CONCLUSION>B</CONCLUSION>"
    short = "<SUMMARY>s</REASONING><CONCLUSION>B</CONCLUSION>"
    columns = {
        "completions": [stages, short, stages.replace(">B<", ">C<")],
        "answer": ["B"] * 3,
        "kind": ["choice"] * 3,
    }
    rewards = load_rewards(["accuracy", "format", "hard"], segments=LLAVA_COT)
    assert [reward(**columns) for reward in rewards] == [[1, 1, 0], [1, 0, 1], [1, 0, 0]]
    assert load_rewards(["format"])[0](**columns) == [0, 0, 0]
    try_rewards(rewards, {"prompt": "Q?", "answer": "B", "kind": "choice", "choices": None}, LLAVA_COT)


@pytest.mark.parametrize(
    "text",
    [
        "<think>a</think><answer>4</answer></answer>",
        "<think>a</think></think><answer>4</answer>",
        "<think>a</think><answer><answer>4</answer>",
        "<think>a</think><answer>the <think> tag</answer>",
        "<think>a</think><answer>4</answer>",
    ],
)
def test_what_is_trained_on_is_what_earns_the_format_reward(text):
    assert format_reward([text]) == [float(scan_segments(text).fault is None)]
