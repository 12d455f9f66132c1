"""The published benchmarks' own scores, by rule and without a judge: an answer that no rule can read counts as wrong.

    anls        1 - edit distance / length, 0 below 0.5, best over the right answers      IconQA (lmms-eval)
    relaxed     numbers within 5 %, else equality without case                             ChartQA (Masry et al. 2022)
    mmmu        the letter found in the answer; open answers by containment of key parts   MMMU (Yue et al. 2024)
    mathvista   integers cut, decimals rounded as asked for, lists as text                 MathVista (Lu et al. 2024)
    vqa         min(1, equal ones of ten human answers / 3)                                A-OKVQA (Schwenk et al. 2022)
    m3cot       the letter in brackets that the answer names last, else a text, a letter   M3CoT (Chen et al. 2024)

All see the answer that ``core.answers`` takes from the response, not the trace. Where the original falls back to
chance (MMMU), to the most similar choice or to a language model (MathVista), the answer is wrong here, unless it is the
text of a choice.
"""

import math
import re
from typing import Any

from balanced_thinking.core.answers import answers_match, normalise_text, parse_number
from balanced_thinking.data.prompts import LETTERS
from balanced_thinking.evaluation.question import Question

_ANLS_LEAST, _RELATIVE = 0.5, 0.05
_LONGEST = 1000  # characters of a key part, from its end, that are searched for numbers: it takes the square of them
_MARKS = ",.!?;:'"
_TRIVIAL = ("", *":,.!?;'")
_BRACKETED = re.compile(r"\(([a-zA-Z])\)")
_NUMBERS = (
    r"-?\b\d{1,3}(?:,\d{3})+\b",
    r"-?\d+(?:\.\d+)?[eE][+-]?\d+",
    r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])",
)
_BEFORE_ANSWERS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")


def anls(answer: str | None, asked: Question) -> float:
    """max over right answers of 1 - edits / longer length, 0 where that is below 0.5; with choices, the right one."""
    if answer is None:
        return 0.0
    if asked.example.choices:
        return _right_choice(answer, asked)
    return max(_similarity(answer, right) for right in (asked.example.answer, *asked.also))


def relaxed(answer: str | None, asked: Question) -> float:
    """1 if |answer - right| <= 0.05 |right| for numbers ("%" is a hundredth), else if equal without case."""
    if answer is None:
        return 0.0
    right = asked.example.answer
    value, expected = _plain_number(answer), _plain_number(right)
    if value is not None and expected:
        return float(abs(value - expected) / abs(expected) <= _RELATIVE)
    return float(answer.strip().lower() == right.strip().lower())


def mmmu(answer: str | None, asked: Question) -> float:
    """The letter that the answer names last, or for open questions any key part that holds a right answer."""
    if answer is None:
        return 0.0
    example = asked.example
    if example.choices:
        return float(_named_letter(answer, example.choices) == example.answer)
    right = [part for text in (example.answer, *asked.also) for part in _normalised(text)]
    return float(any(_holds(part, right) for part in _key_parts(answer)))


def mathvista(answer: str | None, asked: Question) -> float:
    """Equality after the answer is brought to the type that is asked for: integer, decimals, list, or a choice (of
    several letters in brackets the first)."""
    if answer is None:
        return 0.0
    example, kind = asked.example, asked.facts.get("answer_type")
    if example.choices:
        letters = _BRACKETED.findall(answer)
        return _right_choice(letters[0] if letters else answer, asked)
    if kind in ("integer", "float"):
        digits = None if kind == "integer" else digits_asked_for(asked.facts.get("precision"))
        if digits is None and kind == "float":
            return 0.0
        value, right = (_rounded(text, digits) for text in (answer, example.answer))
        return float(value is not None and value == right)
    return float(answer.strip() == example.answer.strip())


def vqa(answer: str | None, asked: Question) -> float:
    """min(1, humans who gave this answer / 3), compared without case, outer space and final dot."""
    said = _plain(answer or "")
    given = [_plain(human) for human in asked.facts["direct_answers"]]
    return min(1.0, given.count(said) / 3) if said else 0.0


def m3cot(answer: str | None, asked: Question) -> float:
    """The last letter in brackets, else the last choice whose text, or else whose letter, stands in the answer."""
    example, choices = asked.example, asked.example.choices or ()
    if answer is None:
        return 0.0
    if bracketed := _BRACKETED.findall(answer):
        return float(bracketed[-1].upper() == example.answer)
    lowered, words = answer.lower(), re.split(r"[\n.,!? ]", answer)
    letters = LETTERS[: len(choices)]
    by_text = [letter for letter, choice in zip(letters, choices, strict=True) if choice.lower() in lowered]
    by_letter = [letter for letter in letters if letter in words]
    found = by_text or by_letter or [letter for letter in letters if letter.lower() in words]
    return float(found[-1:] == [example.answer])


def _plain(text: str) -> str:
    return text.strip().removesuffix(".").rstrip().lower()


def _right_choice(answer: str, asked: Question) -> float:
    """1 for the letter or the text of the right choice, or of another that reads the same."""
    choices, right = asked.example.choices or (), asked.example.answer
    text = choices[LETTERS.index(right.upper())] if len(right) == 1 else right
    same = [letter for letter, choice in zip(LETTERS, choices, strict=False) if choice == text] or [right]
    return float(any(answers_match(answer, letter, kind="choice", choices=choices) for letter in same))


def digits_asked_for(precision: Any) -> int | None:
    """The decimals that MathVista's ``precision`` asks for; None where it is not a number, in any sense."""
    try:
        return int(float(precision))
    except (TypeError, ValueError, OverflowError):
        return None


def _rounded(text: str, digits: int | None) -> float | None:
    """The number in a text, rounded to so many digits, or cut off (None); None where it is no finite number."""
    number = parse_number(text)
    value = math.inf if number is None else float(number)
    if not math.isfinite(value):
        return None
    return float(int(value)) if digits is None else round(value, digits)


def _similarity(answer: str, right: str) -> float:
    one, other = (" ".join(text.lower().split()) for text in (answer, right))
    longest = max(len(answer), len(right))
    if abs(len(one) - len(other)) > _ANLS_LEAST * longest:
        return 0.0
    similar = 1.0 - edit_distance(one, other) / longest if longest else 1.0
    return similar if similar >= _ANLS_LEAST else 0.0


def edit_distance(one: str, other: str) -> int:
    """Insertions, deletions and replacements that turn one text into the other (Levenshtein).

    Example:
        >>> edit_distance("kitten", "sitting")
        3
    """
    row = list(range(len(other) + 1))
    for number, left in enumerate(one, start=1):
        above, row[0] = row[0], number
        for column, right in enumerate(other, start=1):
            above, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, above + (left != right))
    return row[-1]


def _plain_number(text: str) -> float | None:
    text = text.strip()
    try:
        return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None


def _named_letter(answer: str, choices: tuple[str, ...]) -> str | None:
    """MMMU's rule: "(B)", else "B " or "B.", else the text of a choice in a long answer; of several the last."""
    bare = answer
    for mark in _MARKS:  # one after the other, as the authors' script does
        bare = bare.strip(mark)
    text, letters = f" {bare} ", LETTERS[: len(choices)]
    for written, placed in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        found = [letter for letter in letters if written.format(letter) in text]
        if found:
            places = {letter: text.rfind(placed.format(letter)) for letter in found}
            return max(places, key=places.__getitem__)
    if len(text.split()) > 5:
        lowered = text.lower()
        places = {letter: lowered.rfind(choice.lower()) for letter, choice in zip(letters, choices, strict=True)}
        if max(places.values()) >= 0:
            return max(places, key=places.__getitem__)
    same = (letter for letter, choice in zip(letters, choices, strict=True) if _same(choice, answer))
    return next(same, None)


def _same(one: str, other: str) -> bool:
    return normalise_text(one) == normalise_text(other)


def _key_parts(answer: str) -> list[str | float]:
    """The ends of sentences behind words such as "is", or the whole; and every number in them."""
    sentences = re.split(r"\.\s(?=[A-Z])|\n", answer.strip().strip(".").lower())
    ends = []
    for number, sentence in enumerate(sentences):
        marks = (*_BEFORE_ANSWERS, "=") if number == len(sentences) - 1 else _BEFORE_ANSWERS
        shortest = ""
        for end in (sentence.split(mark)[-1].strip() for mark in marks if mark in sentence):
            shortest = end if not shortest or len(end) < len(shortest) else shortest
        if shortest not in _TRIVIAL:
            ends.append(shortest)
    ends = ends or [answer.strip().strip(".").lower()]
    numbers = [number for end in ends for pattern in _NUMBERS for number in re.findall(pattern, end[-_LONGEST:])]
    return [part for text in (*ends, *numbers) for part in _normalised(text)]


def _normalised(text: str) -> list[str | float]:
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        lowered = text.lower()
        return [f" {lowered}", f"{lowered} "] if len(lowered) == 1 else [lowered]


def _holds(part: str | float, right: list[str | float]) -> bool:
    if isinstance(part, str):
        return any(isinstance(text, str) and text in part for text in right)
    return part in right
