"""Reasoning traces of `icons`, written by a program to look like real ones: wordy, hedging, sometimes mistaken.

A trace goes through the picture cell by cell and says of each what the question needs to know of it (does it count, is
it the one, which group is it), then gathers what follows, re-reads a cell now and then, and may name a wrong icon and
take it back. It is consistent with the picture and stops short of the answer, unless ``end_with_answer``.
``{a|b|c}`` in a phrase stands for one of its alternatives, drawn at random and nested at will.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence

from balanced_thinking.evaluation.benchmarks.icons_pool import Icon
from balanced_thinking.evaluation.benchmarks.icons_scene import POSITIONS, ROWS, SIDE
from balanced_thinking.evaluation.benchmarks.icons_tasks import Puzzle, article

NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
OPENERS = (
    "{Okay|Well|Alright|Hmm|So}, {let me|I will|I should} {look|go over it|read|scan it} "
    "{row by row|slowly|cell by cell|with care}.",
    "{First|To begin|To start}, {what is there|what I see|all the cells|a look}.",
    "{The question|This} {needs|wants|takes} {a close look|a careful look|the whole grid|some care}.",
)
HEADS = ("{Top|First|Upper} row: ", "{Middle|Second|Next} row: ", "{Bottom|Third|Last} row: ")
LINKS = ("", "", " has", " shows", " holds", ":")
HEDGES = ("", "", "", "", "", "maybe ", "clearly ", "probably ", "perhaps ", "surely ")
JOINTS = (", ", ", ", "; ", "; ", " and ", ", then ")
REGRETS = "{, no,|, wait,|, sorry,|, hmm,|, or} {rather|actually|I mean|better}"
# What a cell means for the question: it is what is sought, it is not, or it is one of two.
VERDICTS = {
    "yes": ", {yes|that counts|one of them|a match|there}",
    "no": "{||, no|, not that|, other|, skip it}",
    "former": ", {former|one for the former|the former kind}",
    "latter": ", {latter|one for the latter|the latter kind}",
    "neither": "{||, neither|, other|, skip it}",
}
CHECKS = (
    "{Let me|I should|I will} {check|read|verify} {it again|once more|twice}:",
    "{Wait|Hmm|Hold on}, {again|once more}:",
    "{To be sure|To be safe|Just in case}, {again|once more}:",
)
TURNS = (
    "{That is|This is} {all|the whole grid|every cell}. {Now|So now} {to|back to} the question.",
    "{Good|Fine}, {now|next} {against the question|what the question wants}.",
)
AGAIN = (
    "{Hmm|Wait|Hold on}, {am I sure|is that right}? {Let me|I will} {go over it|look} {again|once more}.",
    "{I should|Let me} {not rush|be careful}; {from the start|all cells} {again|once more}.",
    "{To be|Just to be} {sure|safe|certain}, {another look|one more time}.",
)
NODS = "{yes|right|fine|good|as before|that holds|same as before}"
GATHERS = "{Now|So|Next|Then}{,||}"
CLOSERS = (
    "{That|This} {should be|is|looks} {enough|sufficient|clear}.",
    "{I am|I feel} {fairly|quite|rather|pretty} {sure|confident|certain}.",
    "{Good|Fine|Okay|Alright}, {that settles it|I can answer now|nothing is left|done}.",
    "",
    "",
)
_ALTERNATIVES = re.compile(r"\{([^{}]*)\}")
Verdict = Callable[[int], str]


def expand(phrase: str, rng: random.Random) -> str:
    """``phrase`` with each ``{a|b}`` replaced by one of its alternatives, innermost first."""
    while "{" in phrase:
        phrase = _ALTERNATIVES.sub(lambda match: rng.choice(match[1].split("|")), phrase)
    return phrase


def describe(cells: Sequence[Icon], rng: random.Random, *, verdict: Verdict | None = None, slips: bool = False) -> str:
    """The cells in reading order, each with what it means for the question; with ``slips`` one may be taken back."""
    names = [icon.name for icon in cells]
    slip = rng.randrange(len(names)) if slips else None
    rows = []
    for row in range(SIDE):
        items = [
            _item(place, names[place], rng, wrong=rng.choice(names) if place == slip else None)
            + (verdict(place) if verdict else "")
            for place in range(row * SIDE, row * SIDE + SIDE)
        ]
        listing = items[0] + "".join(rng.choice(JOINTS) + item for item in items[1:])
        head = expand(HEADS[row], rng) if rng.random() < 0.5 else ""
        rows.append(f"{head}{listing}.")
    return " ".join(rows)


def write_trace(puzzle: Puzzle, form: str, rng: random.Random, *, end_with_answer: bool = False) -> str:
    """The trace of a puzzle of one form: opening, what is asked about, every cell, what follows, re-check, close."""
    subject, mark, gather = PLANS[form]
    parts = [
        expand(rng.choice(OPENERS), rng),
        subject(puzzle, rng) if subject else "",
        describe(puzzle.cells, rng, verdict=mark(puzzle, rng) if mark else None, slips=rng.random() < 0.15),
        f"{expand(GATHERS, rng)} {gather(puzzle, rng)}." if gather else "",
    ]
    if rng.random() < 0.3:
        parts.append(_recheck(puzzle, rng))
    parts.append(expand(rng.choice(CLOSERS), rng))
    if end_with_answer:
        parts.append(f"So the answer is {puzzle.answer}.")
    return " ".join(part for part in parts if part)


def write_long_trace(puzzle: Puzzle, form: str, rng: random.Random) -> str:
    """Five or six times through the picture: what is there, what each cell means, and both again until it is sure."""
    subject, mark, gather = PLANS[form]
    verdict = mark(puzzle, rng) if mark else None
    parts = [expand(rng.choice(OPENERS), rng), describe(puzzle.cells, rng, slips=rng.random() < 0.15)]
    for number in range(rng.randint(4, 5)):
        judged = number != 1  # the second time only what is there
        parts += [
            expand(rng.choice(AGAIN if number else TURNS), rng),
            subject(puzzle, rng) if subject and judged else "",
            describe(puzzle.cells, rng, verdict=verdict if judged else None, slips=rng.random() < 0.15),
            f"{expand(GATHERS, rng)} {gather(puzzle, rng)}." if gather and judged else "",
        ]
    parts += [_recheck(puzzle, rng), expand(rng.choice(CLOSERS), rng)]
    return " ".join(part for part in parts if part)


def _item(place: int, name: str, rng: random.Random, *, wrong: str | None) -> str:
    regret = f"{_noun(wrong, rng)}{expand(REGRETS, rng)} " if wrong and wrong != name else ""
    return f"{POSITIONS[place]}{rng.choice(LINKS)} {regret}{rng.choice(HEDGES)}{_noun(name, rng)}"


def _noun(name: str, rng: random.Random) -> str:
    return rng.choice((name, name, article(name), f"the {name}"))


def _recheck(puzzle: Puzzle, rng: random.Random) -> str:
    place = rng.randrange(len(puzzle.cells))
    return f"{expand(rng.choice(CHECKS), rng)} {POSITIONS[place]} {puzzle.cells[place].name}, {expand(NODS, rng)}."


# What is asked about, where the question only points to it.
def _asked_pictures(puzzle: Puzzle, rng: random.Random) -> str:
    seen = (f"{which} picture{rng.choice(LINKS)} {_noun(icon.name, rng)}"
            for which, icon in zip(("second", "third"), puzzle.shown, strict=False))  # fmt: skip
    return f"{expand('{Asked about|In question|To find}', rng)}: {' and '.join(seen)}."


# What each cell means for the question.
def _mark(of: Callable[[int], str], rng: random.Random) -> Verdict:
    return lambda place: expand(VERDICTS[of(place)], rng)


def _mark_target(puzzle: Puzzle, rng: random.Random) -> Verdict:
    return _mark(lambda place: "yes" if puzzle.cells[place] == puzzle.notes["target"] else "no", rng)


def _mark_pair(puzzle: Puzzle, rng: random.Random) -> Verdict:
    meaning = dict(zip(puzzle.notes["pair"], ("former", "latter"), strict=True))
    return _mark(lambda place: meaning.get(puzzle.cells[place], "neither"), rng)


def _mark_place(puzzle: Puzzle, rng: random.Random) -> Verdict:
    return _mark(lambda place: "yes" if place == puzzle.notes["place"] else "no", rng)


def _mark_group(puzzle: Puzzle, rng: random.Random) -> Verdict:
    return lambda place: rng.choice((f", {article(puzzle.cells[place].group)}", f", {puzzle.cells[place].group}"))


# What follows from all of it.
def _gather_pair(puzzle: Puzzle, rng: random.Random) -> str:
    return ", ".join(f"the {icon.name} {NUMBERS[puzzle.cells.count(icon)]}" for icon in puzzle.notes["pair"])


def _gather_row(puzzle: Puzzle, rng: random.Random) -> str:
    found = expand("{it stands|it sits|I find it|it appears}", rng)
    return f"the {puzzle.notes['target'].name}, {found} in the {ROWS[puzzle.notes['found'] // SIDE]} row"


def _gather_odd_cell(puzzle: Puzzle, rng: random.Random) -> str:
    most = expand("{nearly all|almost all|all but one|eight}", rng)
    return f"{most} show the {puzzle.notes['other'].name}"


def _gather_odd_group(puzzle: Puzzle, rng: random.Random) -> str:
    most = expand("{nearly all|almost all|all but one|eight}", rng)
    return f"{most} of these are {puzzle.notes['group']} icons"


def _gather_cell(puzzle: Puzzle, rng: random.Random) -> str:
    place = puzzle.notes["place"]
    return (
        f"{POSITIONS[place]}, {expand('{there I saw|it holds|that one is|it shows}', rng)} {puzzle.cells[place].name}"
    )


def _gather_groups(puzzle: Puzzle, rng: random.Random) -> str:
    counts = Counter(icon.group for icon in puzzle.cells)
    return ", ".join(f"{name} {NUMBERS[counts[name]]}" for name in puzzle.notes["groups"])


Writer = Callable[[Puzzle, random.Random], str]
Marker = Callable[[Puzzle, random.Random], Verdict]
PLANS: dict[str, tuple[Writer | None, Marker | None, Writer | None]] = {
    "count-icon": (None, _mark_target, None),
    "count-shown": (_asked_pictures, _mark_target, None),
    "compare-icons": (None, _mark_pair, _gather_pair),
    "compare-shown": (_asked_pictures, _mark_pair, _gather_pair),
    "locate-icon": (None, _mark_target, _gather_row),
    "locate-shown": (_asked_pictures, _mark_target, _gather_row),
    "odd-group": (None, _mark_group, _gather_odd_group),
    "odd-cell": (None, _mark_target, _gather_odd_cell),
    "category-cell": (None, _mark_place, _gather_cell),
    "category-most": (None, _mark_group, _gather_groups),
}
