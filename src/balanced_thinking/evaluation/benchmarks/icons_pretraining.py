"""What the base of a preset is pre-trained on: lists, dense captions and direct questions about icon grids.

Named ones show the seen icons of `icons`; name-free ones (kinds by first appearance) also the background icons, so that
comparing pictures is learned as such. The held-out icons of `icons-unseen` never appear. Each example depends on its
number and the seed alone. What it leaves out: the mixture and its order (``demo.presets.pretrain``).
"""

import random

from balanced_thinking.data.example import Example
from balanced_thinking.evaluation.benchmarks.icons import as_example, draw_form
from balanced_thinking.evaluation.benchmarks.icons_pool import background_icons, seen_icons
from balanced_thinking.evaluation.benchmarks.icons_scene import CELLS, Cells, kinds_of
from balanced_thinking.evaluation.benchmarks.icons_tasks import FORMS, Groups, Puzzle
from balanced_thinking.evaluation.benchmarks.icons_traces import describe


def list_example(number: int, *, seed: int = 0, named: bool = True) -> Example:
    """Nothing but the nine names or kinds, in order: the quickest way to learn to see."""
    rng = random.Random(f"list/{seed}/{named}/{number}")
    cells = _grid(rng, named=named)
    names = [icon.name for icon in cells] if named else kinds_of(cells)
    return _caption("List every cell", ", ".join(names), cells, rng, named=named)


def caption_example(number: int, *, seed: int = 0, named: bool = True) -> Example:
    """The description of a trace, alone."""
    rng = random.Random(f"caption/{seed}/{named}/{number}")
    cells = _grid(rng, named=named)
    return _caption("Describe every cell", describe(cells, rng, named=named), cells, rng, named=named)


def direct_example(number: int, *, seed: int = 0, named: bool = True) -> Example:
    """A question with its answer and no trace: any form on seen icons, or a name-free one on all but the held-out."""
    rng = random.Random(f"direct/{seed}/{named}/{number}")
    form = draw_form(rng, named=named)
    puzzle = FORMS[form].make(_groups(named=named), rng)
    return as_example(puzzle, f"direct-{number:06d}", f"icons/{FORMS[form].task}", rng)


def _caption(question: str, text: str, cells: Cells, rng: random.Random, *, named: bool) -> Example:
    puzzle = Puzzle(cells, f"{question}." if named else f"{question} by kind.", text, "text")
    return as_example(puzzle, f"caption-{rng.getrandbits(40):010x}", "icons/caption", rng)


def _grid(rng: random.Random, *, named: bool) -> Cells:
    """The grid of some question; half of the named ones nine icons at random, so that no name is rare."""
    groups = _groups(named=named)
    if named and rng.random() < 0.5:
        return tuple(rng.choices([icon for icons in groups.values() for icon in icons], k=CELLS))
    return FORMS[draw_form(rng, named=named)].make(groups, rng).cells


def _groups(*, named: bool) -> Groups:
    if named:
        return seen_icons()
    return {"": background_icons() + tuple(icon for icons in seen_icons().values() for icon in icons)}
