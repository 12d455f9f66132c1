"""What the base of a preset is pre-trained on: lists, drills, dense captions and direct questions about icon grids.

A drill is several small questions of one kind about one picture, answered in a row, so that each skill that a direct
question needs (find a place, find an icon, count, compare) is asked as often as a picture allows. All show the seen
icons of `icons`; one source asks name-free questions about several hundred background icons too. The held-out icons of
`icons-unseen` never appear. Each example depends on its number and the seed alone.
What it leaves out: the mixture and its order (``demo.presets.pretrain``).
"""

import random
from collections.abc import Callable

from balanced_thinking.data.example import Example
from balanced_thinking.evaluation.benchmarks.icons import as_example, draw_form
from balanced_thinking.evaluation.benchmarks.icons_pool import GROUPS, background_icons, seen_icons
from balanced_thinking.evaluation.benchmarks.icons_scene import CELLS, POSITIONS, Cells
from balanced_thinking.evaluation.benchmarks.icons_tasks import FORMS, Groups, Puzzle, steps_from
from balanced_thinking.evaluation.benchmarks.icons_traces import describe

Drill = Callable[[Cells, random.Random], list[tuple[str, str]]]  # what is asked about, and the answer


def _names(cells: Cells, rng: random.Random) -> list[tuple[str, str]]:
    return [(POSITIONS[place], cells[place].name) for place in _shuffled(rng)]


def _groups(cells: Cells, rng: random.Random) -> list[tuple[str, str]]:
    return [(POSITIONS[place], cells[place].group) for place in _shuffled(rng)]


def _where(cells: Cells, rng: random.Random) -> list[tuple[str, str]]:
    return [(cells[place].name, POSITIONS[place]) for place in _shuffled(rng) if cells.count(cells[place]) == 1]


def _counts(cells: Cells, rng: random.Random) -> list[tuple[str, str]]:
    names = [icon.name for icon in cells]
    absent = [icon.name for icons in seen_icons().values() for icon in icons if icon.name not in names]
    asked = [*dict.fromkeys(names), *rng.sample(absent, 3)]
    return [(name, str(names.count(name))) for name in rng.sample(asked, len(asked))]


def _counts_of_groups(cells: Cells, rng: random.Random) -> list[tuple[str, str]]:
    groups = [icon.group for icon in cells]
    return [(group, str(groups.count(group))) for group in rng.sample(list(GROUPS), len(GROUPS))]


def _counts_of_places(cells: Cells, rng: random.Random) -> list[tuple[str, str]]:
    return [(POSITIONS[place], str(cells.count(cells[place]))) for place in _shuffled(rng)]


def _same(cells: Cells, rng: random.Random) -> list[tuple[str, str]]:
    """Whether two places show the same icon; half of the time they do, where the grid allows."""
    pairs = []
    for place in _shuffled(rng)[:6]:
        twins = [other for other in range(CELLS) if cells[other] == cells[place] and other != place]
        other = (
            rng.choice(twins) if twins and rng.random() < 0.5 else rng.choice([o for o in range(CELLS) if o != place])
        )
        pairs.append((f"{POSITIONS[place]} {POSITIONS[other]}", "yes" if cells[other] == cells[place] else "no"))
    return pairs


def _neighbours(cells: Cells, rng: random.Random) -> list[tuple[str, str]]:
    pairs = []
    for place in _shuffled(rng):
        if cells.count(cells[place]) == 1:
            side, step = rng.choice(steps_from(place))
            pairs.append((f"{side} {cells[place].name}", cells[place + step].name))
    return pairs


def _comparisons(cells: Cells, rng: random.Random) -> list[tuple[str, str]]:
    names = [icon.name for icon in cells]
    kinds, pairs = sorted(set(names)), []
    for _ in range(5 if len(kinds) > 1 else 0):
        first, second = rng.sample(kinds, 2)
        more = names.count(first) - names.count(second)
        pairs.append((f"{first} or {second}", first if more > 0 else second if more else "neither"))
    return pairs


def _shuffled(rng: random.Random) -> list[int]:
    return rng.sample(range(CELLS), CELLS)


DRILLS: dict[str, Drill] = {
    "What is in": _names,
    "Which group is in": _groups,
    "Where is": _where,
    "How many": _counts,
    "How many of group": _counts_of_groups,
    "How many like": _counts_of_places,
    "Same icon in": _same,
    "Which is": _neighbours,
    "Which is shown more": _comparisons,
}
# Drills that are as telling on nine icons at random; "Where is" needs icons that are shown once.
_ON_ANY_GRID = ("What is in", "Which group is in", "How many of group", "Where is", "Which is")


def list_example(number: int, *, seed: int = 0) -> Example:
    """The nine names in order and nothing else: each token asks the picture, the quickest way to learn to see."""
    rng = random.Random(f"list/{seed}/{number}")
    cells = _grid(rng, share_random=1.0)
    return _caption("List every cell.", ", ".join(icon.name for icon in cells), cells, rng)


def drill_example(number: int, *, seed: int = 0, drill: str | None = None) -> Example:
    """Questions of one kind in a row, and their answers in the same order."""
    rng = random.Random(f"drill/{seed}/{drill}/{number}")
    drill = drill or rng.choice(list(DRILLS))
    pairs: list[tuple[str, str]] = []
    while not pairs:
        cells = _grid(rng, share_random=0.6 if drill in _ON_ANY_GRID else 0.0)
        pairs = DRILLS[drill](cells, rng)
    asked, answers = zip(*pairs, strict=True)
    return _caption(f"{drill}: {', '.join(asked)}?", ", ".join(answers), cells, rng)


def caption_example(number: int, *, seed: int = 0) -> Example:
    """The description that begins a trace, alone."""
    rng = random.Random(f"caption/{seed}/{number}")
    cells = FORMS[draw_form(rng, named=True)].make(seen_icons(), rng).cells
    return _caption("Describe every cell.", describe(cells, rng), cells, rng)


def direct_example(number: int, *, seed: int = 0, named: bool = True) -> Example:
    """A question with its answer and no trace: any form on seen icons, or a name-free one on all but the held-out."""
    rng = random.Random(f"direct/{seed}/{named}/{number}")
    form = draw_form(rng, named=named)
    puzzle = FORMS[form].make(_pool(named=named), rng)
    return as_example(puzzle, f"direct-{number:06d}", f"icons/{FORMS[form].task}", rng)


def _grid(rng: random.Random, *, share_random: float) -> Cells:
    """Nine icons at random, or the grid of some question."""
    if rng.random() < share_random:
        return tuple(rng.choices([icon for icons in seen_icons().values() for icon in icons], k=CELLS))
    return FORMS[draw_form(rng, named=True)].make(seen_icons(), rng).cells


def _caption(question: str, text: str, cells: Cells, rng: random.Random) -> Example:
    puzzle = Puzzle(cells, question, text, "text")
    return as_example(puzzle, f"caption-{rng.getrandbits(40):010x}", "icons/caption", rng)


def _pool(*, named: bool) -> Groups:
    if named:
        return seen_icons()
    return {"": background_icons() + tuple(icon for icons in seen_icons().values() for icon in icons)}
