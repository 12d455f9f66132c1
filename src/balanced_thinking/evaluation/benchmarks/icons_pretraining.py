"""What the base of a preset is pre-trained on: facts, dense captions and direct questions about icon grids.

Facts are a dense caption in its barest form: "owl east, fox north", each key followed by what the picture says of it.
One step of attention finds it, so a skill that a question needs (find a place, find an icon, count) is learned within
hundreds of steps where questions alone leave it at chance for thousands. All show the seen icons of `icons`; one source
asks name-free questions about several hundred background icons too. The held-out icons of `icons-unseen` never appear.
Each example depends on its number and the seed alone.
What it leaves out: the mixture and its order (``demo.presets.pretrain``).
"""

import random
from collections import Counter
from collections.abc import Callable

from balanced_thinking.data.example import Example
from balanced_thinking.evaluation.benchmarks.icons import as_example, draw_form
from balanced_thinking.evaluation.benchmarks.icons_pool import GROUPS, Icon, background_icons, seen_icons
from balanced_thinking.evaluation.benchmarks.icons_scene import CELLS, POSITIONS, Cells
from balanced_thinking.evaluation.benchmarks.icons_tasks import FORMS, LETTERS, Groups, Puzzle
from balanced_thinking.evaluation.benchmarks.icons_traces import describe

Facts = Callable[[Cells, random.Random], list[tuple[str, str]]]


def where(cells: Cells, rng: random.Random) -> list[tuple[str, str]]:
    """Icon and place, of icons that are shown once."""
    return [(cells[place].name, POSITIONS[place]) for place in _shuffled(rng) if cells.count(cells[place]) == 1]


def names(cells: Cells, rng: random.Random) -> list[tuple[str, str]]:
    """Place and icon."""
    return [(POSITIONS[place], cells[place].name) for place in _shuffled(rng)]


def counts(cells: Cells, rng: random.Random) -> list[tuple[str, str]]:
    """Icon and how often it is shown, three absent ones among them."""
    shown = [icon.name for icon in cells]
    absent = [icon.name for icon in _seen() if icon.name not in shown]
    asked = [*dict.fromkeys(shown), *rng.sample(absent, 3)]
    return [(name, str(shown.count(name))) for name in rng.sample(asked, len(asked))]


def groups(cells: Cells, rng: random.Random) -> list[tuple[str, str]]:
    """Place and group."""
    return [(POSITIONS[place], cells[place].group) for place in _shuffled(rng)]


def counts_of_groups(cells: Cells, rng: random.Random) -> list[tuple[str, str]]:
    """Group and how often it is shown."""
    shown = [icon.group for icon in cells]
    return [(group, str(shown.count(group))) for group in rng.sample(list(GROUPS), len(GROUPS))]


def kinds(cells: Cells, rng: random.Random) -> list[tuple[str, str]]:
    """Icon and group, whatever is shown."""
    return [(icon.name, icon.group) for icon in rng.sample(_seen(), CELLS)]


def comparisons(cells: Cells, rng: random.Random) -> list[tuple[str, str]]:
    """Two icons and which is shown more often."""
    counts = Counter(icon.name for icon in cells)
    pairs = [(a, b) for a in counts for b in counts if counts[a] != counts[b]]
    chosen = rng.sample(pairs, min(5, len(pairs)))
    return [(f"{first} or {second}", max(first, second, key=counts.__getitem__)) for first, second in chosen]


FACTS: dict[str, Facts] = {
    "Where is each icon?": where,
    "Which icon is in each cell?": names,
    "How many cells show each icon?": counts,
    "To which group does the icon in each cell belong?": groups,
    "How many icons of each group?": counts_of_groups,
    "To which group does each icon belong?": kinds,
    "Which is shown more often?": comparisons,
}
# As telling on nine icons at random; the first needs icons that are shown once.
_ON_ANY_GRID = (where, names, groups, kinds, counts_of_groups)


def fact_example(number: int, *, seed: int = 0, facts: Facts | None = None) -> Example:
    """Facts of one kind about a grid in random order."""
    rng = random.Random(f"facts/{seed}/{facts.__name__ if facts else None}/{number}")
    question, kind = rng.choice([(key, value) for key, value in FACTS.items() if facts in (None, value)])
    pairs: list[tuple[str, str]] = []
    while not pairs:
        cells = _grid(rng, share_random=0.6 if kind in _ON_ANY_GRID else 0.0)
        pairs = kind(cells, rng)
    return _caption(question, ", ".join(f"{key} {finding}" for key, finding in pairs), cells, rng)


def letter_example(number: int, *, seed: int = 0) -> Example:
    """Choices and their letters, whatever is shown."""
    rng = random.Random(f"letters/{seed}/{number}")
    choices = rng.sample(list(GROUPS), 4)
    pairs = [f"{choice} {LETTERS[choices.index(choice)]}" for choice in rng.sample(choices, 4)]
    cells = _grid(rng, share_random=1.0)
    puzzle = Puzzle(cells, "Which letter is each?", ", ".join(pairs), "text", tuple(choices))
    return as_example(puzzle, f"letters-{number:06d}", "icons/caption", rng)


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
        return tuple(rng.choices(_seen(), k=CELLS))
    return FORMS[draw_form(rng, named=True)].make(seen_icons(), rng).cells


def _caption(question: str, text: str, cells: Cells, rng: random.Random) -> Example:
    puzzle = Puzzle(cells, question, text, "text")
    return as_example(puzzle, f"caption-{rng.getrandbits(40):010x}", "icons/caption", rng)


def _pool(*, named: bool) -> Groups:
    if named:
        return seen_icons()
    return {"": (*background_icons(), *_seen())}


def _seen() -> list[Icon]:
    return [icon for group in seen_icons().values() for icon in group]


def _shuffled(rng: random.Random) -> list[int]:
    return rng.sample(range(CELLS), CELLS)
