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
CENTRE = POSITIONS.index("centre")
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
    """How many icons are the same as the one in the centre, that one included, 1 to 5."""
    count = rng.randrange(1, 6)
    target, *others = _icons(groups, rng.randrange(3, 5), rng)
    cells = _around(target, count - 1, _fill(others, CELLS - count, rng), rng)
    question = "How many icons are the same as the one in the centre cell, counting that one too?"
    return Puzzle(cells, question, str(count), "number", notes={"target": target})


def compare_icons(groups: Groups, rng: random.Random) -> Puzzle:
    """Which of two named icons is shown more often; a third of the time neither."""
    first, second, *others = _icons(groups, rng.randrange(3, 5), rng)
    counts = _pair(rng)
    rest = [(icon, 1) for icon in rng.choices(others, k=CELLS - sum(counts))]
    cells = arrange([(first, counts[0]), (second, counts[1]), *rest], rng)
    question = f"Which is shown more often, {article(first.name)} or {article(second.name)}, or neither?"
    answer = _verdict(counts, (first.name, second.name, "neither"))
    return Puzzle(cells, question, answer, "text", notes={"pair": (first, second)})


def compare_same(groups: Groups, rng: random.Random) -> Puzzle:
    """Whether the icon of the centre is shown more often or less often than all others together."""
    count = rng.choice((1, 2, 3, 6, 7, 8))
    target, *others = _icons(groups, rng.randrange(3, 5), rng)
    cells = _around(target, count - 1, [(icon, 1) for icon in rng.choices(others, k=CELLS - count)], rng)
    question = "Is the icon in the centre cell shown more or less often than all the others together?"
    return Puzzle(cells, question, "more" if count > CELLS // 2 else "less", "text", notes={"target": target})


def locate_icon(groups: Groups, rng: random.Random) -> Puzzle:
    """Where an icon stands that is shown once."""
    target, *others = _icons(groups, rng.randrange(4, 6), rng)
    cells = arrange([(target, 1), *_fill(others, CELLS - 1, rng)], rng)
    found = cells.index(target)
    notes = {"target": target, "found": found}
    return Puzzle(cells, f"Where is the {target.name}?", POSITIONS[found], "text", notes=notes)


def locate_same(groups: Groups, rng: random.Random) -> Puzzle:
    """Where the icon of the centre is shown a second time."""
    target, *others = _icons(groups, rng.randrange(4, 6), rng)
    cells = _around(target, 1, _fill(others, CELLS - 2, rng), rng)
    twin = next(place for place, icon in enumerate(cells) if icon == target and place != CENTRE)
    question = "Where is the icon of the centre cell shown again?"
    return Puzzle(cells, question, POSITIONS[twin], "text", notes={"target": target, "found": twin})


def odd_group(groups: Groups, rng: random.Random) -> Puzzle:
    """Which icon belongs to another group than the eight others."""
    group, other = _groups(groups, 2, rng)
    odd = rng.choice(groups[other])
    cells = arrange([(odd, 1), *((icon, 1) for icon in rng.choices(groups[group], k=CELLS - 1))], rng)
    return Puzzle(cells, "Which icon does not belong to the others?", odd.name, "text", notes={"group": group})


def odd_cell(groups: Groups, rng: random.Random) -> Puzzle:
    """Which cell shows another icon than the eight others."""
    odd, other = _icons(groups, 2, rng)
    cells = arrange([(odd, 1), (other, CELLS - 1)], rng)
    question = "Which cell shows another icon than all the others?"
    notes = {"target": odd, "other": other}
    return Puzzle(cells, question, POSITIONS[cells.index(odd)], "text", notes=notes)


def category_cell(groups: Groups, rng: random.Random) -> Puzzle:
    """To which group the icon of one cell belongs."""
    cells = arrange([(rng.choice(groups[name]), 1) for name in _nine_groups(groups, rng)], rng)
    place = rng.randrange(CELLS)
    question = f"To which group does the icon in the {POSITIONS[place]} cell belong?"
    return Puzzle(cells, question, cells[place].group, "text", notes={"place": place})


def category_most(groups: Groups, rng: random.Random) -> Puzzle:
    """Which of four groups is shown most often."""
    names = _groups(groups, 4, rng)
    counts = rng.choice([(5, 2, 1, 1), (5, 2, 2, 0), (6, 1, 1, 1), (6, 2, 1, 0), (7, 1, 1, 0)])
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
    "compare-same": Form("compare", False, compare_same),
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


def _around(target: Icon, more: int, others: Sequence[tuple[Icon, int]], rng: random.Random) -> Cells:
    """A grid with ``target`` in the centre and ``more`` times elsewhere."""
    rest = [target] * more + [icon for icon, count in others for _ in range(count)]
    rng.shuffle(rest)
    return (*rest[:CENTRE], target, *rest[CENTRE:])


def _pair(rng: random.Random) -> tuple[int, int]:
    """Two counts: first larger by two or more, second larger by as much, equal, with a third each."""
    large, small = rng.choice(((3, 1), (4, 1), (4, 2), (5, 2), (5, 3), (6, 2)))
    equal = rng.randrange(1, 5)
    return rng.choice([(large, small), (small, large), (equal, equal)])


def _verdict(counts: tuple[int, int], names: tuple[str, ...]) -> str:
    return names[2] if counts[0] == counts[1] else names[counts[1] > counts[0]]
