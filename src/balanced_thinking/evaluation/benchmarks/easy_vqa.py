"""The published benchmark easy-VQA (Victor Zhou, MIT): one coloured shape in a 64 x 64 picture, 13 answers.

Test questions are as published (9,673); the 4,000 training pictures are split by picture into train and val (every
twentieth). The data set has no reasoning, so traces are derived from what the questions about a picture and their
answers tell of it, never from its pixels: a trace says what is known of shape and colour, sets it against the question
and stops short of the answer. What it leaves out: pictures of our own; how answers are scored (``core.answers``).

Source: https://github.com/vzhou842/easy-VQA, PyPI ``easy-vqa``.
"""

import importlib
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from balanced_thinking.data.example import Example
from balanced_thinking.errors import ConfigError
from balanced_thinking.evaluation.benchmarks.icons_traces import CLOSERS, HEDGES, expand

SHAPES = ("circle", "rectangle", "triangle")
COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SPLITS = ("train", "val", "test")
_VAL_EVERY = 20
_WORDS = re.compile(r"[a-z]+")
OPENERS = (
    "{Okay|Well|Alright|Hmm|So}, {let me look|one thing at a time|I look at the picture}.",
    "{First|To begin}, {what is in the picture|the shape|what I see}.",
    "{The question|This} {needs|wants|takes} {a close look|one look|some care}.",
)
RECHECKS = (
    "{Let me|I should} {check|look} {again|once more}: {{0}}, {yes|right|as before}.",
    "{To be sure|Just in case}: {{0}}, {that holds|same as before}.",
)


@dataclass
class Facts:
    """What the questions about a picture tell of it: the values of shape and colour, and those ruled out."""

    known: dict[str, str] = field(default_factory=dict)
    excluded: dict[str, set[str]] = field(default_factory=lambda: {"shape": set(), "color": set()})


def load(split: str = "test") -> Sequence[Example]:
    """The examples of a split: ``train``, ``val`` or ``test``.

    Raises:
        ConfigError: no such split, or the package ``easy-vqa`` is missing.
    """
    return [example for example, _ in _examples(split)]


def _examples(split: str) -> list[tuple[Example, Facts]]:
    if split not in SPLITS:
        raise ConfigError(f"easy-vqa has no split {split!r}; take one of {', '.join(SPLITS)}")
    package = _package()
    published = "test" if split == "test" else "train"
    questions, answers, pictures = getattr(package, f"get_{published}_questions")()
    paths = getattr(package, f"get_{published}_image_paths")()
    facts = _facts(questions, answers, pictures)
    return [
        (_example(f"{split}-{number:05d}", question, answer, paths[picture], facts[picture]), facts[picture])
        for number, (question, answer, picture) in enumerate(zip(questions, answers, pictures, strict=True))
        if split == "test" or (picture % _VAL_EVERY == 0) == (split == "val")
    ]


def load_captions(split: str = "train") -> Sequence[Example]:
    """One description, such as ``a blue circle``, of each picture of a split whose shape and colour its questions tell.

    For a base that has yet to learn what such pictures show; it holds no trace.
    """
    pictures: dict[Any, Facts] = {}
    for example, facts in _examples(split):
        pictures.setdefault(example.images, facts)
    return [
        Example(
            f"{split}-{number:05d}",
            "easy-vqa/caption",
            images,
            "Describe the picture.",
            None,
            None,
            _plain(facts),
            "text",
        )
        for number, (images, facts) in enumerate(pictures.items())
        if facts.known.keys() == facts.excluded.keys()
    ]


def write_trace(question: str, facts: Facts, rng: random.Random) -> str:
    """Opening, what is known of the picture, what the question asks for, a second look now and then, close."""
    seen = _seen(facts, rng)
    parts = [expand(rng.choice(OPENERS), rng), f"{seen}.", _set_against(question, facts, rng)]
    if rng.random() < 0.3:
        parts.append(expand(rng.choice(RECHECKS).replace("{{0}}", _plain(facts)), rng))
    parts.append(expand(rng.choice(CLOSERS), rng))
    return " ".join(part for part in parts if part)


def _example(name: str, question: str, answer: str, path: str, facts: Facts) -> Example:
    rng = random.Random(f"easy-vqa/{name}")
    kind = "yes-no" if answer in ("yes", "no") else "color" if answer in COLOURS else "shape"
    asked = f"{question[0].upper()}{question[1:]}"
    trace = write_trace(question, facts, rng)
    return Example(name, f"easy-vqa/{kind}", (Path(path),), asked, None, trace, answer, "text")


def _facts(questions: Sequence[str], answers: Sequence[str], pictures: Sequence[int]) -> dict[int, Facts]:
    found: dict[int, Facts] = defaultdict(Facts)
    for question, answer, picture in zip(questions, answers, pictures, strict=True):
        _learn(found[picture], question, answer)
    for facts in found.values():
        for sort, values in (("shape", SHAPES), ("color", COLOURS)):
            left = set(values) - facts.excluded[sort]
            if sort not in facts.known and len(left) == 1:
                facts.known[sort] = left.pop()
    return found


def _learn(facts: Facts, question: str, answer: str) -> None:
    """A question about what is there tells by its answer; one that asks "what" tells by what it names, too."""
    named = _named(question)
    if answer not in ("yes", "no"):
        named.append(("shape" if answer in SHAPES else "color", answer))
        facts.known.update(named)
    for sort, value in named if answer in ("yes", "no") else []:
        if (answer == "yes") != _negated(question):
            facts.known[sort] = value
        else:
            facts.excluded[sort].add(value)


def _named(question: str) -> list[tuple[str, str]]:
    words = _WORDS.findall(question)
    sorts = (("shape", SHAPES), ("color", COLOURS))
    return [(sort, word) for sort, values in sorts for word in words if word in values]


def _negated(question: str) -> bool:
    return not {"no", "not"}.isdisjoint(_WORDS.findall(question))


def _seen(facts: Facts, rng: random.Random) -> str:
    hedge = rng.choice(HEDGES)
    lead = rng.choice(("There is", "I see", "It shows", "Here is"))
    return f"{lead} {hedge}{_plain(facts)}" if facts.known else f"{lead} {hedge}one shape"


def _plain(facts: Facts) -> str:
    noun = " ".join((*([facts.known["color"]] if "color" in facts.known else []), facts.known.get("shape", "shape")))
    return f"a {noun}"


def _set_against(question: str, facts: Facts, rng: random.Random) -> str:
    """The asked value beside the one that is there, and whether the question turns it round."""
    named = _named(question)
    if "what" in _WORDS.findall(question):
        wanted = "shape" if "what color" not in question and "the color" not in question else "color"
        return expand(f"{{It asks for|The question asks about|What counts is}} the {wanted}.", rng)
    sort, value = named[0]
    there = facts.known.get(sort)
    other = f"{{but this is {there}|and {there} is not {value}}}" if there else f"{{but I see no {value}|none of that}}"
    found = f"{{and {value} it is|and that is there}}" if there == value else other
    turned = "; {mind the no|it is turned round|asked the other way round}" if _negated(question) else ""
    return expand(f"{{It asks|The question asks}} {{for|about}} {value}, {found}{turned}.", rng)


def _package() -> Any:
    try:
        return importlib.import_module("easy_vqa")
    except ImportError as error:
        raise ConfigError(
            "easy-vqa needs the package of that name; install it with pip install 'balanced-thinking[demo]'"
        ) from error
