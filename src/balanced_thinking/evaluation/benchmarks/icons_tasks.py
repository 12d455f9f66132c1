"""The question forms of `icons`: each lays out a grid, asks about it and knows the answer.

Five tasks (count, compare, locate, odd-one-out, category), two forms each. A form without names (``named`` false) can
be asked about icons that have never been seen. Answers are spread evenly over their values, by building the grid around
an answer that is drawn first, so that neither the commonest answer nor the question alone tells much.
What it leaves out: the reasoning traces (``icons_traces``), files and splits (``icons``).
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from balanced_thinking.data.example import AnswerKind
from balanced_thinking.evaluation.benchmarks.icons_pool import Icon
from balanced_thinking.evaluation.benchmarks.icons_scene import CELLS, POSITIONS, Cells, arrange, split

LETTERS = "ABCD"
Groups = dict[str, tuple[Icon, ...]]


@dataclass(frozen=True, slots=True)
class Puzzle:
    """A grid with a question; ``notes`` is what the trace of its form needs to know."""

    cells: Cells
    question: str
    answer: str
    kind: AnswerKind
    choices: tuple[str, ...] | None = None
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Form:
    """One way to ask: the task it belongs to, whether it names icons, its share of a named set, its maker."""

    task: str
    named: bool
    make: Callable[[Groups, random.Random], Puzzle]


def count_icon(groups: Groups, rng: random.Random) -> Puzzle:
    """How often one icon is shown, 0 to 5."""
    count = rng.randrange(6)
    target, *others = _icons(groups, rng.randrange(3, 6), rng)
    cells = arrange([(target, count), *_fill(others, CELLS - count, rng)], rng)
    question = f"How many cells show {article(target.name)}?"
    return Puzzle(cells, question, str(count), "number", notes={"target": target})


def count_same(groups: Groups, rng: random.Random) -> Puzzle:
    """How many icons are the same as the one in a given cell, that one included, 1 to 5."""
    count = rng.randrange(1, 6)
    target, *others = _icons(groups, rng.randrange(3, 5), rng)
    cells = arrange([(target, count), *_fill(others, CELLS - count, rng)], rng)
    place = _place(cells, target, rng)
    question = f"How many icons are the same as the one in the {POSITIONS[place]} cell, counting that one too?"
    return Puzzle(cells, question, str(count), "number", notes={"place": place})


def compare_icons(groups: Groups, rng: random.Random) -> Puzzle:
    """Which of two named icons is shown more often; a third of the time neither."""
    first, second, *others = _icons(groups, rng.randrange(3, 5), rng)
    counts = _pair(rng)
    cells = arrange([(first, counts[0]), (second, counts[1]), *_fill(others, CELLS - sum(counts), rng)], rng)
    question = f"Which is shown more often, {article(first.name)} or {article(second.name)}, or neither?"
    answer = _verdict(counts, (first.name, second.name, "neither"))
    return Puzzle(cells, question, answer, "text", notes={"pair": (first, second)})


def compare_cells(groups: Groups, rng: random.Random) -> Puzzle:
    """Which of the icons of two given cells is shown more often, as a choice of three."""
    first, second, *others = _icons(groups, rng.randrange(3, 5), rng)
    counts = _pair(rng)
    cells = arrange([(first, counts[0]), (second, counts[1]), *_fill(others, CELLS - sum(counts), rng)], rng)
    places = (_place(cells, first, rng), _place(cells, second, rng))
    choices = (POSITIONS[places[0]], POSITIONS[places[1]], "neither")
    answer = LETTERS[choices.index(_verdict(counts, choices))]
    return Puzzle(cells, "Which of these cells holds the icon that is shown more often?", answer, "choice", choices,
                  {"places": places})  # fmt: skip


def locate_icon(groups: Groups, rng: random.Random) -> Puzzle:
    """Where an icon stands that is shown once."""
    target, *others = _icons(groups, rng.randrange(4, 6), rng)
    cells = arrange([(target, 1), *_fill(others, CELLS - 1, rng)], rng)
    answer = POSITIONS[cells.index(target)]
    return Puzzle(cells, f"Where is the {target.name}?", answer, "text", notes={"target": target})


def locate_same(groups: Groups, rng: random.Random) -> Puzzle:
    """Which of four cells shows the same icon as a given one."""
    target, *others = _icons(groups, rng.randrange(3, 5), rng)
    count = rng.randrange(2, 5)
    cells = arrange([(target, count), *_fill(others, CELLS - count, rng)], rng)
    place = _place(cells, target, rng)
    twin = rng.choice([p for p, icon in enumerate(cells) if icon == target and p != place])
    choices, answer = _four_places(twin, [p for p, icon in enumerate(cells) if icon != target], rng)
    question = f"Which of these cells shows the same icon as the {POSITIONS[place]} cell?"
    return Puzzle(cells, question, answer, "choice", choices, {"place": place})


def odd_group(groups: Groups, rng: random.Random) -> Puzzle:
    """Which icon belongs to another group than the eight others."""
    group, other = _groups(groups, 2, rng)
    odd = rng.choice(groups[other])
    cells = arrange([(odd, 1), *((icon, 1) for icon in rng.choices(groups[group], k=CELLS - 1))], rng)
    return Puzzle(cells, "Which icon does not belong to the others?", odd.name, "text", notes={"group": group})


def odd_cell(groups: Groups, rng: random.Random) -> Puzzle:
    """Which of four cells holds the icon that is shown only once."""
    cells, odd = _one_single(groups, rng)
    choices, answer = _four_places(cells.index(odd), range(CELLS), rng)
    question = "Which of these cells holds an icon that is shown only once?"
    return Puzzle(cells, question, answer, "choice", choices, {"single": odd})


def category_cell(groups: Groups, rng: random.Random) -> Puzzle:
    """To which group the icon of one cell belongs."""
    cells = arrange([(rng.choice(groups[name]), 1) for name in _nine_groups(groups, rng)], rng)
    place = rng.randrange(CELLS)
    question = f"To which group does the icon in the {POSITIONS[place]} cell belong?"
    return Puzzle(cells, question, cells[place].group, "text", notes={"place": place})


def category_most(groups: Groups, rng: random.Random) -> Puzzle:
    """Which of four groups is shown most often."""
    names = _groups(groups, 4, rng)
    counts = rng.choice([(4, 3, 1, 1), (4, 2, 2, 1), (5, 2, 1, 1), (3, 2, 2, 2), (5, 3, 1, 0), (4, 3, 2, 0)])
    icons = [rng.choice(groups[name]) for name, count in zip(names, counts, strict=True) for _ in range(count)]
    choices = rng.sample(names, 4)
    answer = LETTERS[choices.index(names[0])]
    cells = arrange([(icon, 1) for icon in icons], rng)
    question = "Which group is shown most often?"
    return Puzzle(cells, question, answer, "choice", tuple(choices), {"groups": tuple(choices)})


FORMS: dict[str, Form] = {
    "count-icon": Form("count", True, count_icon),
    "count-same": Form("count", False, count_same),
    "compare-icons": Form("compare", True, compare_icons),
    "compare-cells": Form("compare", False, compare_cells),
    "locate-icon": Form("locate", True, locate_icon),
    "locate-same": Form("locate", False, locate_same),
    "odd-group": Form("odd-one-out", True, odd_group),
    "odd-cell": Form("odd-one-out", False, odd_cell),
    "category-cell": Form("category", True, category_cell),
    "category-most": Form("category", True, category_most),
}


def article(noun: str) -> str:
    """The noun with ``a`` or ``an`` before it."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _icons(groups: Groups, count: int, rng: random.Random) -> list[Icon]:
    return rng.sample([icon for icons in groups.values() for icon in icons], count)


def _groups(groups: Groups, count: int, rng: random.Random) -> list[str]:
    return rng.sample(list(groups), count)


def _nine_groups(groups: Groups, rng: random.Random) -> list[str]:
    return rng.choices(_groups(groups, 5, rng), k=CELLS)


def _fill(icons: Sequence[Icon], total: int, rng: random.Random) -> list[tuple[Icon, int]]:
    return list(zip(icons, split(total, len(icons), rng, least=1), strict=True))


def _pair(rng: random.Random) -> tuple[int, int]:
    """Two counts, 1 to 4: first larger, second larger and equal with a third each."""
    small, large = sorted(rng.sample(range(1, 5), 2))
    equal = rng.randrange(1, 4)
    return rng.choice([(large, small), (small, large), (equal, equal)])


def _verdict(counts: tuple[int, int], names: tuple[str, ...]) -> str:
    return names[2] if counts[0] == counts[1] else names[counts[1] > counts[0]]


def _place(cells: Cells, icon: Icon, rng: random.Random) -> int:
    return rng.choice([place for place, other in enumerate(cells) if other == icon])


def _four_places(right: int, others: Sequence[int], rng: random.Random) -> tuple[tuple[str, ...], str]:
    places = [right, *rng.sample([place for place in others if place != right], 3)]
    rng.shuffle(places)
    return tuple(POSITIONS[place] for place in places), LETTERS[places.index(right)]


def _one_single(groups: Groups, rng: random.Random) -> tuple[Cells, Icon]:
    odd, *others = _icons(groups, rng.randrange(3, 5), rng)
    counts = split(CELLS - 1, len(others), rng, least=2)
    return arrange([(odd, 1), *zip(others, counts, strict=True)], rng), odd
