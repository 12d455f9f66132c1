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
    """A grid with a question.

    ``shown`` are icons in pictures of their own after the grid, to which a question without names points; ``notes`` is
    what the trace of its form needs to know.
    """

    cells: Cells
    question: str
    answer: str
    kind: AnswerKind
    choices: tuple[str, ...] | None = None
    shown: tuple[Icon, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Form:
    """One way to ask: the task it belongs to, whether it names icons, its share of a named set, its maker."""

    task: str
    named: bool
    make: Callable[[Groups, random.Random], Puzzle]


def count_icon(groups: Groups, rng: random.Random) -> Puzzle:
    """How often one icon is shown, 0 to 4."""
    cells, target, count = _counted(groups, rng)
    question = f"How many cells show {article(target.name)}?"
    return Puzzle(cells, question, str(count), "number", notes={"target": target})


def count_shown(groups: Groups, rng: random.Random) -> Puzzle:
    """The same of an icon that is not named but shown in a second picture."""
    cells, target, count = _counted(groups, rng)
    question = "How many cells show the icon of the second picture?"
    return Puzzle(cells, question, str(count), "number", shown=(target,), notes={"target": target})


def compare_icons(groups: Groups, rng: random.Random) -> Puzzle:
    """Which of two named icons is shown more often."""
    cells, pair, more = _compared(groups, rng)
    question = f"Which is shown more often, {article(pair[0].name)} or {article(pair[1].name)}?"
    return Puzzle(cells, question, more.name, "text", notes={"pair": pair})


def compare_shown(groups: Groups, rng: random.Random) -> Puzzle:
    """The same of two icons that are shown in a second and a third picture."""
    cells, pair, more = _compared(groups, rng)
    question = "Which is shown more often, the icon of the second or of the third picture?"
    return Puzzle(cells, question, ("second", "third")[more == pair[1]], "text", shown=pair, notes={"pair": pair})


def locate_icon(groups: Groups, rng: random.Random) -> Puzzle:
    """Where an icon stands that is shown once."""
    cells, target, found = _located(groups, rng)
    notes = {"target": target, "found": found}
    return Puzzle(cells, f"Where is the {target.name}?", POSITIONS[found], "text", notes=notes)


def locate_shown(groups: Groups, rng: random.Random) -> Puzzle:
    """The same of an icon that is shown in a second picture."""
    cells, target, found = _located(groups, rng)
    notes = {"target": target, "found": found}
    question = "Where is the icon of the second picture?"
    return Puzzle(cells, question, POSITIONS[found], "text", shown=(target,), notes=notes)


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
    """To which group the icon of one cell belongs, half of the time as a choice of four."""
    cells = tuple(rng.choice(groups[name]) for name in _nine_groups(groups, rng))
    place = rng.randrange(CELLS)
    group = cells[place].group
    question = f"To which group does the icon in the {POSITIONS[place]} cell belong?"
    if rng.random() < 0.5:
        return Puzzle(cells, question, group, "text", notes={"place": place})
    choices = [group, *rng.sample([name for name in groups if name != group], 3)]
    rng.shuffle(choices)
    letter = LETTERS[choices.index(group)]
    return Puzzle(cells, question, letter, "choice", tuple(choices), notes={"place": place})


def category_most(groups: Groups, rng: random.Random) -> Puzzle:
    """Which group is shown most often."""
    names = _groups(groups, 4, rng)
    counts = rng.choice([(5, 2, 1, 1), (5, 2, 2, 0), (6, 1, 1, 1), (6, 2, 1, 0), (7, 1, 1, 0)])
    icons = [rng.choice(groups[name]) for name, count in zip(names, counts, strict=True) for _ in range(count)]
    cells = arrange([(icon, 1) for icon in icons], rng)
    return Puzzle(cells, "Which group is shown most often?", names[0], "text", notes={"groups": tuple(sorted(names))})


FORMS: dict[str, Form] = {
    "count-icon": Form("count", True, count_icon),
    "count-shown": Form("count", False, count_shown),
    "compare-icons": Form("compare", True, compare_icons),
    "compare-shown": Form("compare", False, compare_shown),
    "locate-icon": Form("locate", True, locate_icon),
    "locate-shown": Form("locate", False, locate_shown),
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


def _counted(groups: Groups, rng: random.Random) -> tuple[Cells, Icon, int]:
    count = rng.randrange(5)
    target, *others = _icons(groups, rng.randrange(3, 6), rng)
    return arrange([(target, count), *_fill(others, CELLS - count, rng)], rng), target, count


def _compared(groups: Groups, rng: random.Random) -> tuple[Cells, tuple[Icon, Icon], Icon]:
    """A grid, two of its icons in any order, and the one that is shown more often, by three at least."""
    more, less, *others = _icons(groups, rng.randrange(4, 6), rng)
    counts = rng.choice(((3, 0), (4, 0), (5, 0), (4, 1), (5, 1), (6, 1), (5, 2), (6, 2)))
    rest = [(icon, 1) for icon in rng.choices(others, k=CELLS - sum(counts))]
    pair = (more, less) if rng.random() < 0.5 else (less, more)
    return arrange([(more, counts[0]), (less, counts[1]), *rest], rng), pair, more


def _located(groups: Groups, rng: random.Random) -> tuple[Cells, Icon, int]:
    target, *others = _icons(groups, rng.randrange(4, 6), rng)
    cells = arrange([(target, 1), *_fill(others, CELLS - 1, rng)], rng)
    return cells, target, cells.index(target)
