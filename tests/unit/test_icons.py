"""The icons benchmarks: reproducible, balanced, consistent with their pictures, in TRL's form."""

import io
import random
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from balanced_thinking.data.prompts import render_question
from balanced_thinking.data.records import load_examples
from balanced_thinking.demo.presets.pretrain import SOURCES
from balanced_thinking.errors import ConfigError
from balanced_thinking.evaluation.benchmarks import BENCHMARKS, icons
from balanced_thinking.evaluation.benchmarks.icons_pool import background_icons, seen_icons, unseen_icons
from balanced_thinking.evaluation.benchmarks.icons_pretraining import FACTS, fact_example, where
from balanced_thinking.evaluation.benchmarks.icons_scene import CELLS, POSITIONS, arrange, draw
from balanced_thinking.evaluation.benchmarks.icons_scene import split as split_number
from balanced_thinking.evaluation.benchmarks.icons_tasks import FORMS, LETTERS, Puzzle
from balanced_thinking.evaluation.benchmarks.icons_traces import NUMBERS, describe, expand, write_trace


def puzzles(form: str, count: int = 200) -> list[Puzzle]:
    return [FORMS[form].make(seen_icons(), random.Random(f"{form}{i}")) for i in range(count)]


def solve(form: str, puzzle: Puzzle) -> set[str]:
    """All right answers, worked out again from the grid and the words of the question alone."""
    names = [icon.name for icon in puzzle.cells]
    groups = [icon.group for icon in puzzle.cells]
    question, choices = puzzle.question, puzzle.choices or ()
    shown = [icon.name for icon in puzzle.shown]

    def letters(*wanted: str) -> set[str]:
        return {LETTERS[i] for i, choice in enumerate(choices) if choice in wanted}

    if form == "count-icon":
        return {str(names.count(re.search(r"show an? (.+)\?", question)[1]))}
    if form == "count-shown":
        return {str(names.count(shown[0]))}
    if form.startswith("compare"):
        asked = re.search(r"often, an? (.+?) or an? (.+?)\?", question)
        first, second = (names.count(name) for name in (asked.groups() if asked else shown))
        answers = asked.groups() if asked else ("second", "third")
        return {answers[first < second]} if first != second else set()
    if form == "locate-icon":
        return {POSITIONS[names.index(re.search(r"the (.+)\?", question)[1])]}
    if form == "locate-shown":
        return {POSITIONS[place] for place, name in enumerate(names) if name == shown[0]}
    if form == "odd-cell":
        return {POSITIONS[place] for place, name in enumerate(names) if names.count(name) == 1}
    if form == "odd-group":
        return {name for name, group in zip(names, groups, strict=True) if groups.count(group) == 1}
    if form == "category-cell":
        group = groups[POSITIONS.index(re.search(r"the (\w+) cell", question)[1])]
        return letters(group) if choices else {group}
    ((most, count), (_, next_count)) = Counter(groups).most_common(2)
    return {most} if count > next_count else set()


@pytest.mark.parametrize("form", FORMS)
def test_the_answer_follows_from_the_grid_and_is_the_only_one(form):
    for puzzle in puzzles(form):
        assert solve(form, puzzle) == {puzzle.answer}
        assert len(puzzle.cells) == CELLS
        assert len(set(puzzle.choices or ())) == len(puzzle.choices or ())


@pytest.mark.parametrize("form", FORMS)
def test_traces_describe_the_picture_in_order_and_stop_before_the_answer(form):
    for number, puzzle in enumerate(puzzles(form, 60)):
        trace = write_trace(puzzle, form, random.Random(number))
        words = re.findall(r"[\w-]+", trace)
        remaining = iter(words)
        assert all(icon.name in remaining for icon in puzzle.cells), trace
        assert "answer is" not in trace
        assert "{" not in trace
        assert 45 <= len(re.findall(r"[\w-]+|[^\w\s]", trace)) <= 140
        ending = write_trace(puzzle, form, random.Random(number), end_with_answer=True)
        assert ending.endswith(f"So the answer is {puzzle.answer}.")


def test_a_trace_says_of_each_cell_whether_it_is_sought():
    for number, puzzle in enumerate(puzzles("count-icon", 60)):
        trace = write_trace(puzzle, "count-icon", random.Random(number))
        target = puzzle.notes["target"].name
        ends = [re.search(rf"\b{place}\b", trace).start() for place in POSITIONS] + [len(trace)]
        for place, icon in enumerate(puzzle.cells):
            said = trace[ends[place] : ends[place + 1]]
            verdict = said[said.index(icon.name) :].split(".")[0]
            assert bool(re.search(r", (yes|that counts|one of them|a match|there)\b", verdict)) == (icon.name == target)


def test_pairs_in_a_trace_are_counted():
    for number, puzzle in enumerate(puzzles("compare-icons", 60)):
        trace = write_trace(puzzle, "compare-icons", random.Random(number))
        for icon in puzzle.notes["pair"]:
            assert f"the {icon.name} {NUMBERS[puzzle.cells.count(icon)]}" in trace


def test_a_slip_is_taken_back_at_once():
    fox, owl = seen_icons()["animal"][0], seen_icons()["bird"][2]
    texts = [describe([fox, owl, fox, owl, fox, owl, fox, owl, fox], random.Random(i), slips=True) for i in range(40)]
    assert any(
        re.search(r"owl,? (or )?(no, |wait, |sorry, |hmm, )?(rather|actually|I mean|better) .*?fox", t) for t in texts
    )


def test_unseen_icons_never_appear_in_training_or_pretraining():
    unseen = {icon.character for icon in unseen_icons()}
    seen = {icon.character for group in seen_icons().values() for icon in group}
    background = {icon.character for icon in background_icons()}
    assert not unseen & (seen | background)
    assert not seen & background
    assert (len(seen), len(unseen)) == (30, 24)
    assert len(background) > 400


def test_unseen_questions_name_no_icon_and_their_form_is_trained_on_seen_icons():
    names = {icon.name for icon in unseen_icons()} | {icon.name for g in seen_icons().values() for icon in g}
    unseen = [icons.make_example("icons-unseen", "test", n) for n in range(200)]
    for example in unseen:
        assert not names & set(re.findall(r"\w+", render_question(example.question, example.choices)))
    assert {e.source.split("/")[1] for e in unseen} == {"count", "compare", "locate", "odd-one-out"}
    trained = {form_of(icons.make_example("icons", "train", n).question) for n in range(300)}
    assert {form_of(example.question) for example in unseen} <= trained


def form_of(question: str) -> str:
    """The question without its places."""
    return re.sub("|".join(sorted(POSITIONS, key=len, reverse=True)), "PLACE", question)


def test_shortcuts_that_need_no_picture_stay_low(monkeypatch):
    monkeypatch.setattr(icons.icons_scene, "draw", lambda cells, rng: b"")
    train = [icons.make_example("icons", "train", n) for n in range(4000)]
    test = [icons.make_example("icons", "test", n) for n in range(1000)]
    shares = icons.shortcut_baselines(train, test)
    assert 0.1 < shares["majority"] < 0.3
    assert 0.1 < shares["question_only"] < 0.35
    letters = Counter(example.answer for example in train if example.kind == "choice")
    assert max(letters.values()) < 0.36 * sum(letters.values())


def test_shortcut_baselines_on_hand_made_examples():
    def one(question, answer, source="s"):
        return icons.Example("1", source, (), question, None, None, answer, "text")

    train = [one("p?", "x"), one("p?", "x"), one("p?", "y"), one("q?", "y"), one("r?", "y")]
    # Majority answer of the source is y (3 of 5); by question: p -> x, q -> y, unknown -> y.
    test = [one("p?", "x"), one("q?", "y"), one("new?", "y"), one("p?", "y")]
    assert icons.shortcut_baselines(train, test) == {"majority": 0.75, "question_only": 0.75}


def test_examples_depend_on_their_number_alone():
    assert icons.make_example("icons", "val", 7) == icons.make_example("icons", "val", 7)
    assert icons.make_example("icons", "val", 7).question != "" != icons.make_example("icons", "test", 7).question
    for make in (*SOURCES.values(),):
        assert make(3) == make(3)
        assert make(3, seed=1) != make(3)
        assert make(3).think is None


@pytest.mark.parametrize("question", FACTS)
def test_facts_state_the_grid(question):
    a, b, c, d = (icon for icons_of_group in list(seen_icons().values())[:2] for icon in icons_of_group[:2])
    cells = (a, a, b, c, a, b, d, c, c)  # animals a, b; birds c, d
    pairs = [pair for seed in range(5) for pair in FACTS[question](cells, random.Random(seed))]
    assert pairs
    assert set(pairs) <= known_facts(question, [icon.name for icon in cells])


def known_facts(question: str, names: list[str]) -> set[tuple[str, str]]:
    """What may be said of the grid ``a a b / c a b / d c c``, written out by hand."""
    a, b, c, d = names[0], names[2], names[3], names[6]
    groups = ["animal"] * 3 + ["bird", "animal", "animal"] + ["bird"] * 3
    others = {icon.name for icons_of_group in seen_icons().values() for icon in icons_of_group} - set(names)
    places = list(zip(POSITIONS, names, strict=True))
    more = {(a, b): a, (a, d): a, (b, c): c, (b, d): b, (c, d): c}
    return {
        "Where is each icon?": {(d, "southwest")},
        "Which icon is in each cell?": set(places),
        "How many cells show each icon?": {(a, "3"), (b, "2"), (c, "3"), (d, "1")} | {(name, "0") for name in others},
        "To which group does the icon in each cell belong?": set(zip(POSITIONS, groups, strict=True)),
        "How many icons of each group?": {("animal", "5"), ("bird", "4")}
        | {(group, "0") for group in list(seen_icons())[2:]},
        "To which group does each icon belong?": {(i.name, i.group) for g in seen_icons().values() for i in g},
        "Which is shown more often?": {(f"{p} or {q}", name) for (p, q), name in more.items()}
        | {(f"{q} or {p}", name) for (p, q), name in more.items()},
    }[question]


def test_a_fact_can_be_asked_for_by_its_kind():
    example = fact_example(0, facts=where)
    assert example.question == "Where is each icon?"
    assert {fact_example(number).question for number in range(60)} == set(FACTS)


def test_a_split_is_written_once_and_read_back_as_it_was_made(tmp_path, monkeypatch):
    monkeypatch.setenv("BALANCED_THINKING_CACHE", str(tmp_path))
    monkeypatch.setitem(icons.SPLITS, "icons", {"train": 6, "val": 5, "test": 4})
    examples = BENCHMARKS["icons"].load("val")
    file = icons.split_file("icons", "val")
    assert len(examples) == 5
    before = file.stat().st_mtime_ns
    assert list(load_examples(file)) == list(BENCHMARKS["icons"].load("val"))
    assert file.stat().st_mtime_ns == before
    for number, example in enumerate(examples):
        made = icons.make_example("icons", "val", number)
        assert (example.question, example.choices, example.think, example.answer) == (
            made.question, made.choices, made.think, made.answer,
        )  # fmt: skip
        with Image.open(example.images[0]) as picture:
            assert picture.size == (84, 84)
            assert picture.convert("RGB").tobytes() == Image.open(io.BytesIO(made.images[0])).convert("RGB").tobytes()


def test_equal_icons_are_not_equal_pixels_and_nothing_leaves_its_cell():
    fox = seen_icons()["animal"][0]
    picture = np.asarray(Image.open(io.BytesIO(draw([fox] * CELLS, random.Random(0)))).convert("RGB"))
    tiles = [picture[r : r + 28, c : c + 28].tobytes() for r in range(0, 84, 28) for c in range(0, 84, 28)]
    assert len(set(tiles)) > 6


def test_unknown_names_are_refused_in_one_line():
    with pytest.raises(ConfigError, match="take one of icons, icons-unseen"):
        icons.split_file("icon", "test")
    with pytest.raises(ConfigError, match="no split 'train'"):
        icons.split_file("icons-unseen", "train")


def test_helpers():
    rng = random.Random(0)
    assert expand("{a|b{c|d}} e", random.Random(3)) in {"a e", "bc e", "bd e"}
    assert all(sum(parts := split_number(8, 3, rng, least=2)) == 8 and min(parts) >= 2 for _ in range(50))
    one, two = seen_icons()["bird"][:2]
    assert sorted(icon.name for icon in arrange([(one, 4), (two, 5)], rng)).count(one.name) == 4


def test_long_traces_are_long_and_end_as_the_short_ones():
    """Five or six passes: 320 to 620 tokens of the embedded model, every cell named at least four times."""
    from transformers import AutoTokenizer

    from balanced_thinking.demo.presets import PRESETS

    tokenizer = AutoTokenizer.from_pretrained(PRESETS["tiny-qwen2_5_vl"].shipped)
    lengths = []
    for number in range(60):
        example = icons.make_example("icons-long", "train", number)
        lengths.append(len(tokenizer(example.think)["input_ids"]))
        assert all(example.think.count(place) >= 4 for place in POSITIONS)
        assert "the answer is" not in example.think
    assert min(lengths) >= 300
    assert max(lengths) * 1.2 <= BENCHMARKS["icons-long"].max_new_tokens
    assert 400 <= sum(lengths) / len(lengths) <= 480
