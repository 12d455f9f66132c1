"""What the base of a preset is pre-trained on: lists, drills, dense captions and direct questions about icon grids.

A drill is a row of small questions of one kind with their answers, so that each skill a direct question needs (find a
place, find an icon, count, compare) is asked several times a picture. All show the seen icons of `icons`; one source
asks name-free questions about several hundred background icons too. The held-out icons of `icons-unseen` never appear.
Each example depends on its number and the seed alone. What it leaves out: the mixture (``demo.presets.pretrain``).
"""

import random
from collections.abc import Callable, Sequence

from balanced_thinking.data.example import Example
from balanced_thinking.evaluation.benchmarks.icons import as_example, draw_form
from balanced_thinking.evaluation.benchmarks.icons_pool import GROUPS, background_icons, seen_icons
from balanced_thinking.evaluation.benchmarks.icons_scene import CELLS, POSITIONS, Cells
from balanced_thinking.evaluation.benchmarks.icons_tasks import FORMS, Groups, Puzzle, steps_from
from balanced_thinking.evaluation.benchmarks.icons_traces import describe

Drill = Callable[[Cells, random.Random], Sequence[str]]


def _list_cells(cells: Cells, rng: random.Random) -> list[str]:
    return [icon.name for icon in cells]


def _places(cells: Cells, rng: random.Random) -> list[str]:
    return [f"{POSITIONS[place]} {cells[place].name}" for place in rng.sample(range(CELLS), CELLS)]


def _groups_of_places(cells: Cells, rng: random.Random) -> list[str]:
    return [f"{POSITIONS[place]} {cells[place].group}" for place in rng.sample(range(CELLS), CELLS)]


def _counts(cells: Cells, rng: random.Random) -> list[str]:
    names = {icon.name for icon in cells}
    absent = [icon.name for icons in seen_icons().values() for icon in icons if icon.name not in names]
    asked = [*rng.sample(sorted(names), min(6, len(names))), *rng.sample(absent, 2)]
    return [f"{name} {sum(icon.name == name for icon in cells)}" for name in rng.sample(asked, len(asked))]


def _counts_of_groups(cells: Cells, rng: random.Random) -> list[str]:
    return [f"{group} {sum(icon.group == group for icon in cells)}" for group in rng.sample(list(GROUPS), len(GROUPS))]


def _counts_of_places(cells: Cells, rng: random.Random) -> list[str]:
    return [f"{POSITIONS[place]} {cells.count(cells[place])}" for place in rng.sample(range(CELLS), CELLS)]


def _singles(cells: Cells, rng: random.Random) -> list[str]:
    """Where each icon stands that is shown once; which these are is the answer to "which icon is shown only once"."""
    single = [place for place, icon in enumerate(cells) if cells.count(icon) == 1]
    return [f"{cells[place].name} {POSITIONS[place]}" for place in rng.sample(single, len(single))] or ["none"]


def _twins(cells: Cells, rng: random.Random) -> list[str]:
    """For each place, one other that shows the same icon."""
    lines = []
    for place in rng.sample(range(CELLS), CELLS):
        others = [other for other in range(CELLS) if cells[other] == cells[place] and other != place]
        lines.append(f"{POSITIONS[place]} {POSITIONS[rng.choice(others)] if others else 'none'}")
    return lines


def _neighbours(cells: Cells, rng: random.Random) -> list[str]:
    lines = []
    for place in rng.sample(range(CELLS), CELLS):
        if cells.count(cells[place]) == 1:
            side, step = rng.choice(steps_from(place))
            lines.append(f"{side} {cells[place].name} {cells[place + step].name}")
    return lines[:6] or ["none"]


def _pairs(cells: Cells, rng: random.Random) -> list[str]:
    return _verdicts([icon.name for icon in cells], rng)


def _verdicts(labels: Sequence[str], rng: random.Random) -> list[str]:
    kinds, lines = sorted(set(labels)), []
    for _ in range(5 if len(kinds) > 1 else 0):
        first, second = rng.sample(kinds, 2)
        more = labels.count(first) - labels.count(second)
        lines.append(f"{first} or {second} {first if more > 0 else second if more else 'neither'}")
    return lines or ["none"]


def _where(cells: Cells, rng: random.Random) -> list[str]:
    single = [place for place, icon in enumerate(cells) if cells.count(icon) == 1]
    return [f"{cells[place].name} {POSITIONS[place]}" for place in rng.sample(single, len(single))]


DRILLS: dict[str, Drill] = {
    "List every cell.": _list_cells,
    "Say where each icon is.": _where,
    "Say what is in each place.": _places,
    "Say the group in each place.": _groups_of_places,
    "Count some icons.": _counts,
    "Count every group.": _counts_of_groups,
    "Count what each place shows.": _counts_of_places,
    "Say which icons are shown once.": _singles,
    "Say where each place is seen again.": _twins,
    "Say what is beside some icons.": _neighbours,
    "Compare some icons.": _pairs,
}


_ON_ANY_GRID = ("List every cell.", "Say what is in each place.", "Say the group in each place.", "Count every group.")


def list_example(number: int, *, seed: int = 0) -> Example:
    """The nine names in order and nothing else: each token asks the picture, the quickest way to learn to see."""
    return _drill_example("List every cell.", random.Random(f"list/{seed}/{number}"))


def drill_example(number: int, *, seed: int = 0, question: str | None = None) -> Example:
    """One of the drills, or one drawn evenly."""
    rng = random.Random(f"drill/{seed}/{number}")
    return _drill_example(question or rng.choice(list(DRILLS)), rng)


def caption_example(number: int, *, seed: int = 0) -> Example:
    """The description that begins a trace, alone."""
    rng = random.Random(f"caption/{seed}/{number}")
    cells = FORMS[draw_form(rng, named=True)].make(seen_icons(), rng).cells
    return _caption("Describe every cell.", describe(cells, rng), cells, rng)


def direct_example(number: int, *, seed: int = 0, named: bool = True) -> Example:
    """A question with its answer and no trace: any form on seen icons, or a name-free one on all but the held-out."""
    rng = random.Random(f"direct/{seed}/{named}/{number}")
    form = draw_form(rng, named=named)
    puzzle = FORMS[form].make(_groups(named=named), rng)
    return as_example(puzzle, f"direct-{number:06d}", f"icons/{FORMS[form].task}", rng)


def _drill_example(question: str, rng: random.Random) -> Example:
    icons = [icon for icons_of_group in seen_icons().values() for icon in icons_of_group]
    if question == "Say where each icon is.":
        cells = tuple(rng.sample(icons, CELLS))
    elif question in _ON_ANY_GRID and rng.random() < 0.5:
        cells = tuple(rng.choices(icons, k=CELLS))
    else:
        cells = FORMS[draw_form(rng, named=True)].make(seen_icons(), rng).cells
    return _caption(question, ", ".join(DRILLS[question](cells, rng)), cells, rng)


def _caption(question: str, text: str, cells: Cells, rng: random.Random) -> Example:
    puzzle = Puzzle(cells, question, text, "text")
    return as_example(puzzle, f"caption-{rng.getrandbits(40):010x}", "icons/caption", rng)


def _groups(*, named: bool) -> Groups:
    if named:
        return seen_icons()
    return {"": background_icons() + tuple(icon for icons in seen_icons().values() for icon in icons)}
