"""What the base of a preset is pre-trained on: lists, tallies, dense captions and direct questions about icon grids.

They show the seen icons of `icons`; one source asks name-free questions about several hundred background icons, so that
comparing pictures is learned as such. The held-out icons of `icons-unseen` never appear. Each example depends on its
number and the seed alone. What it leaves out: the mixture and its order (``demo.presets.pretrain``).
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence

from balanced_thinking.data.example import Example
from balanced_thinking.evaluation.benchmarks.icons import as_example, draw_form
from balanced_thinking.evaluation.benchmarks.icons_pool import background_icons, seen_icons
from balanced_thinking.evaluation.benchmarks.icons_scene import CELLS, Cells
from balanced_thinking.evaluation.benchmarks.icons_tasks import FORMS, Groups, Puzzle
from balanced_thinking.evaluation.benchmarks.icons_traces import describe

LISTS: dict[str, Callable[[Cells], Sequence[str]]] = {
    "List every cell.": lambda cells: [icon.name for icon in cells],
    "List the group of every cell.": lambda cells: [icon.group for icon in cells],
    "Count every icon.": lambda cells: _tally([icon.name for icon in cells]),
    "Count every group.": lambda cells: _tally([icon.group for icon in cells]),
}


def list_example(number: int, *, seed: int = 0, question: str = "List every cell.") -> Example:
    """Nothing but the facts of the grid, each token asking the picture: the quickest way to learn to see and count."""
    rng = random.Random(f"list/{seed}/{question}/{number}")
    cells = _grid(rng)
    return _caption(question, ", ".join(LISTS[question](cells)), cells, rng)


def caption_example(number: int, *, seed: int = 0) -> Example:
    """The description that begins a trace, alone."""
    rng = random.Random(f"caption/{seed}/{number}")
    cells = _grid(rng)
    return _caption("Describe every cell.", describe(cells, rng), cells, rng)


def direct_example(number: int, *, seed: int = 0, named: bool = True) -> Example:
    """A question with its answer and no trace: any form on seen icons, or a name-free one on all but the held-out."""
    rng = random.Random(f"direct/{seed}/{named}/{number}")
    form = draw_form(rng, named=named)
    puzzle = FORMS[form].make(_groups(named=named), rng)
    return as_example(puzzle, f"direct-{number:06d}", f"icons/{FORMS[form].task}", rng)


def _caption(question: str, text: str, cells: Cells, rng: random.Random) -> Example:
    puzzle = Puzzle(cells, question, text, "text")
    return as_example(puzzle, f"caption-{rng.getrandbits(40):010x}", "icons/caption", rng)


def _tally(labels: Sequence[str]) -> list[str]:
    return [f"{label} {count}" for label, count in Counter(labels).items()]


def _grid(rng: random.Random) -> Cells:
    """The grid of some question; a third of the time nine icons at random, so that no name is rare."""
    groups = _groups(named=True)
    if rng.random() < 1 / 3:
        return tuple(rng.choices([icon for icons in groups.values() for icon in icons], k=CELLS))
    return FORMS[draw_form(rng, named=True)].make(groups, rng).cells


def _groups(*, named: bool) -> Groups:
    if named:
        return seen_icons()
    return {"": background_icons() + tuple(icon for icons in seen_icons().values() for icon in icons)}
