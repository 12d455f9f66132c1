"""Reasoning traces of `icons`, written by a program to look like real ones: wordy, hedging, sometimes mistaken.

A trace describes the picture row by row in the words of the dense captions on which the base is pre-trained, gathers
what the question needs (tallies, a place, a group), re-reads a row now and then, and may name a wrong icon and take it
back. It is consistent with the picture and stops short of the answer, unless ``end_with_answer``.
``{a|b|c}`` in a phrase stands for one of its alternatives, drawn at random and nested at will.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence

from balanced_thinking.evaluation.benchmarks.icons_pool import Icon
from balanced_thinking.evaluation.benchmarks.icons_scene import POSITIONS, ROWS, SIDE, row_of
from balanced_thinking.evaluation.benchmarks.icons_tasks import Puzzle, article

NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLUMNS = ("{first|leftmost}", "{second|one in between}", "{third|rightmost}")
OPENERS = (
    "{Okay|Well|Alright|Hmm|So}, {let me|I will|I should} {look|go over it|read|scan it} "
    "{row by row|slowly|cell by cell|with care}.",
    "{First|To begin|To start}, {what is there|what I see|all the cells|a look}.",
    "{The question|This} {needs|wants|takes} {a close look|a careful look|the whole grid|some care}.",
)
HEADS = (
    ("{Top|First|Upper} row", "{Up top|In the top row}"),
    ("{Middle|Second|Next} row", "{Below that|In the middle row}"),
    ("{Bottom|Third|Last|Lower} row", "{At the bottom|In the last row}"),
)
VERBS = ("{:| has| shows}", "{:| I see| there is}")
HEDGES = ("", "", "", "", "", "maybe ", "clearly ", "probably ", "perhaps ", "surely ")
JOINTS = (",", ",", " and", " then", " next", ", then", " beside")
REGRETS = "{, no,|, wait,|, sorry,|, hmm,|, or} {rather|actually|I mean|better}"
GATHERS = "{Now|So|Next|Then}{,||} {for|about|taking|counting}"
CHECKS = (
    "{Let me|I should|I will} {check|read|verify} {it again|once more|twice}:",
    "{Wait|Hmm|Hold on}, {again|once more}:",
    "{To be sure|To be safe|Just in case}, {again|once more}:",
)
NODS = "{yes|right|fine|good|as before|that holds|same as before}"
CLOSERS = (
    "{That|This} {should be|is|looks} {enough|sufficient|clear}.",
    "{I am|I feel} {fairly|quite|rather|pretty} {sure|confident|certain}.",
    "{Good|Fine|Okay|Alright}, {that settles it|I can answer now|nothing is left|done}.",
    "",
    "",
)
_ALTERNATIVES = re.compile(r"\{([^{}]*)\}")


def expand(phrase: str, rng: random.Random) -> str:
    """``phrase`` with each ``{a|b}`` replaced by one of its alternatives, innermost first."""
    while "{" in phrase:
        phrase = _ALTERNATIVES.sub(lambda match: rng.choice(match[1].split("|")), phrase)
    return phrase


def describe(cells: Sequence[Icon], rng: random.Random, *, slips: bool = False) -> str:
    """The cells row by row; with ``slips`` one may be wrong and taken back."""
    names = [icon.name for icon in cells]
    slip = rng.randrange(len(names)) if slips else None
    rows = []
    for row in range(SIDE):
        items = [
            _item(names[place], rng, wrong=rng.choice(names) if place == slip else None)
            for place in range(row * SIDE, row * SIDE + SIDE)
        ]
        listing = items[0] + "".join(f"{rng.choice(JOINTS)} {item}" for item in items[1:])
        style = rng.randrange(2)
        rows.append(f"{expand(HEADS[row][style] + VERBS[style], rng)} {listing}.")
    return " ".join(rows)


def write_trace(puzzle: Puzzle, form: str, rng: random.Random, *, end_with_answer: bool = False) -> str:
    """The trace of a puzzle of one form: opening, description, what the question needs, re-check, close."""
    parts = [
        expand(rng.choice(OPENERS), rng),
        describe(puzzle.cells, rng, slips=rng.random() < 0.15),
        REASONS[form](puzzle, rng),
    ]
    if rng.random() < 0.3:
        parts.insert(rng.choice((2, 3)), _recheck(puzzle, rng))
    parts.append(expand(rng.choice(CLOSERS), rng))
    if end_with_answer:
        parts.append(f"So the answer is {puzzle.answer}.")
    return " ".join(part for part in parts if part)


def _item(name: str, rng: random.Random, *, wrong: str | None) -> str:
    regret = f"{_noun(wrong, rng)}{expand(REGRETS, rng)} " if wrong and wrong != name else ""
    return regret + rng.choice(HEDGES) + _noun(name, rng)


def _noun(name: str, rng: random.Random) -> str:
    return rng.choice((name, name, article(name), f"the {name}"))


def _recheck(puzzle: Puzzle, rng: random.Random) -> str:
    row = rng.randrange(SIDE)
    listed = ", ".join(icon.name for icon in row_of(puzzle.cells, row))
    return f"{expand(rng.choice(CHECKS), rng)} {ROWS[row]} row {listed}, {expand(NODS, rng)}."


def _tally(labels: Sequence[str], wanted: str, rng: random.Random) -> str:
    """How often ``wanted`` occurs in each row."""
    counts = [NUMBERS[list(labels[row * SIDE : (row + 1) * SIDE]).count(wanted)] for row in range(SIDE)]
    style = rng.choice(
        ("{} up top, {} in the middle, {} at the bottom", "top {}, middle {}, bottom {}", "{}, {} and {}")
    )
    return style.format(*counts)


def _gather(subject: str, finding: str, rng: random.Random) -> str:
    return f"{expand(GATHERS, rng)} {subject}: {finding}."


def _names(puzzle: Puzzle) -> list[str]:
    return [icon.name for icon in puzzle.cells]


def _group_names(puzzle: Puzzle) -> list[str]:
    return [icon.group for icon in puzzle.cells]


def _where(place: int, rng: random.Random) -> str:
    row, column = divmod(place, SIDE)
    return f"{ROWS[row]} row, {expand(COLUMNS[column], rng)}"


def _sum(labels: Sequence[str], wanted: str, rng: random.Random) -> str:
    total = NUMBERS[list(labels).count(wanted)]
    counts = [NUMBERS[list(labels[row * SIDE : (row + 1) * SIDE]).count(wanted)] for row in range(SIDE)]
    return f"{', '.join(counts)}, {expand('{so|making|total|hence}', rng)} {total}"


def _reason_count_icon(puzzle: Puzzle, rng: random.Random) -> str:
    name = puzzle.notes["target"].name
    return _gather(f"the {name}", _tally(_names(puzzle), name, rng), rng)


def _reason_count_same(puzzle: Puzzle, rng: random.Random) -> str:
    place = puzzle.notes["place"]
    name = puzzle.cells[place].name
    asked = expand("{The|That} {cell|one} {asked about|in question|I need}", rng)
    tally = _gather(f"the {name}", _tally(_names(puzzle), name, rng), rng)
    return f"{asked}, {POSITIONS[place]}, is {article(name)}. {tally}"


def _reason_compare_icons(puzzle: Puzzle, rng: random.Random) -> str:
    return " ".join(
        _gather(f"the {icon.name}", _sum(_names(puzzle), icon.name, rng), rng) for icon in puzzle.notes["pair"]
    )


def _reason_compare_cells(puzzle: Puzzle, rng: random.Random) -> str:
    names = _names(puzzle)
    return " ".join(
        _gather(f"{POSITIONS[place]}, the {names[place]}", _sum(names, names[place], rng), rng)
        for place in puzzle.notes["places"]
    )


def _reason_locate_icon(puzzle: Puzzle, rng: random.Random) -> str:
    target = puzzle.notes["target"]
    found = (
        f"{expand('{it stands|it sits|I find it|it appears} in the', rng)} {_where(puzzle.cells.index(target), rng)}"
    )
    return _gather(f"the {target.name}", found, rng)


def _reason_locate_neighbour(puzzle: Puzzle, rng: random.Random) -> str:
    target, side = puzzle.notes["target"], puzzle.notes["side"]
    place = puzzle.cells.index(target)
    step = {"left of": -1, "right of": 1, "above": -SIDE, "below": SIDE}[side]
    found = f"{expand('{it stands|it sits|I find it} in the', rng)} {_where(place, rng)}"
    need = expand("{so I want|so I need|hence I take|that leads to}", rng)
    return _gather(f"the {target.name}", f"{found}, {need} what is {side} it, {POSITIONS[place + step]}", rng)


def _reason_locate_same(puzzle: Puzzle, rng: random.Random) -> str:
    names, place = _names(puzzle), puzzle.notes["place"]
    twins = [POSITIONS[other] for other, name in enumerate(names) if name == names[place] and other != place]
    found = f"{expand('{also in|again in|seen again in|more of it in}', rng)} {' and '.join(twins)}"
    return _gather(f"{POSITIONS[place]}, the {names[place]}", found, rng)


def _reason_odd_icon(puzzle: Puzzle, rng: random.Random) -> str:
    return _gather("each icon", _inventory(_names(puzzle)), rng)


def _reason_odd_group(puzzle: Puzzle, rng: random.Random) -> str:
    group = puzzle.notes["group"]
    place = next(place for place, icon in enumerate(puzzle.cells) if icon.group != group)
    most = expand("{Now|So|Well}, {nearly all|almost all|all but one|eight} of these are", rng)
    return f"{most} {group} icons{expand('{, but|, yet|, only}', rng)} one in the {_where(place, rng)} is not."


def _reason_odd_cell(puzzle: Puzzle, rng: random.Random) -> str:
    names, place = _names(puzzle), puzzle.cells.index(puzzle.notes["single"])
    found = f"{_inventory(names)}, {expand('{and|where|while}', rng)} the {names[place]} is in the {_where(place, rng)}"
    return _gather("each icon", found, rng)


def _reason_category_cell(puzzle: Puzzle, rng: random.Random) -> str:
    place = puzzle.notes["place"]
    seen = expand("{there I saw|it holds|that one is|it shows}", rng)
    return _gather(f"the {POSITIONS[place]} cell, {_where(place, rng)}", f"{seen} the {puzzle.cells[place].name}", rng)


def _reason_category_most(puzzle: Puzzle, rng: random.Random) -> str:
    counts = Counter(_group_names(puzzle))
    return _gather("each group", ", ".join(f"{name} {NUMBERS[counts[name]]}" for name in puzzle.notes["groups"]), rng)


def _inventory(labels: Sequence[str]) -> str:
    return ", ".join(f"{name} {NUMBERS[count]}" for name, count in Counter(labels).items())


REASONS: dict[str, Callable[[Puzzle, random.Random], str]] = {
    "count-icon": _reason_count_icon,
    "count-same": _reason_count_same,
    "compare-icons": _reason_compare_icons,
    "compare-cells": _reason_compare_cells,
    "locate-icon": _reason_locate_icon,
    "locate-neighbour": _reason_locate_neighbour,
    "locate-same": _reason_locate_same,
    "odd-icon": _reason_odd_icon,
    "odd-group": _reason_odd_group,
    "odd-cell": _reason_odd_cell,
    "category-cell": _reason_category_cell,
    "category-most": _reason_category_most,
}
