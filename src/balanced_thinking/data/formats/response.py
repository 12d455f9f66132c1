"""Think and answer out of a response text, and the answer in the form that its kind asks for.

What it leaves out: reading what a model generated, where every fault must still give a score (``core.answers``).
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from balanced_thinking.core.answers import check_reference, parse_number
from balanced_thinking.core.segments import THINK_ANSWER, SegmentSpec, scan_segments
from balanced_thinking.data.example import KINDS, AnswerKind
from balanced_thinking.data.images import shortened
from balanced_thinking.data.prompts import LETTERS
from balanced_thinking.data.rowcheck import Place
from balanced_thinking.errors import DataError, EvaluationError, SegmentError

ANSWER_FROM = ("tag", "boxed", "after_think", "field")
_THINK, _ANSWER = THINK_ANSWER
_CLOSE = "</think>"
_TAG = re.compile(r"<([A-Za-z][A-Za-z _-]*)>")
# What others call the trace and the answer, in lower case and without what joins words.
LIKE_THINK = (
    *("think", "thinking", "thought", "thoughts", "reason", "reasoning", "rationale", "rationales", "analysis", "cot"),
    *("chainofthought", "explanation", "trace", "reasoningtrace", "steps"),
)
_LIKE_ANSWER = ("answer", "answers", "finalanswer", "result", "solution", "conclusion", "response", "output")
# As in core.segments, no two runs in a row.
_LEAD = re.compile(r"\s*(?:\*+\s*)?(?:final\s+)?answer\s*(?:\*+\s*)?:\s*\**", re.IGNORECASE)
_LETTER = re.compile(r"[(\[]?\s*([A-Za-z])(?:\s*[)\]])?(?:\s*[.:])?")
_LETTER_FIRST = re.compile(r"(?:[(\[]\s*([A-Za-z])\s*[)\]]|([A-Za-z])\s*[.:)])\s*(.+)", re.DOTALL)
_BRACE = re.compile(r"\\boxed\{|[{}]")
_DECIMAL = re.compile(r"[+\-\u2212]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?")


def split_response(text: str, answer_from: str, *, place: Place, field: str) -> tuple[str | None, str | None]:
    """(think, answer) of a response; think is None if it has none, the answer is None for ``answer_from="field"``.

    A response that starts inside its trace (``.. </think>``, the opening tag being part of the prompt) is read as if
    the tag were there. The answer is: ``tag`` what stands in ``<answer>..</answer>``; ``boxed`` what stands in the last
    ``\\boxed{..}``; ``after_think`` everything behind ``</think>``, the whole text if there is none (where an answer
    tag stands there, what ``tag`` takes).

    Raises:
        SegmentError: the trace is not closed, the answer cannot be found or is empty, or a tag is repeated.
    """
    if _CLOSE in text and _THINK.open not in text.partition(_CLOSE)[0]:
        text = _THINK.open + text
    if answer_from == "after_think" and has_answer_tag(text):
        answer_from = "tag"
    scan = scan_segments(text, THINK_ANSWER, (_ANSWER.name,) if answer_from == "tag" else ())
    if scan.fault is not None and (answer_from == "tag" or scan.fault.kind == "unclosed-think"):
        raise _told(scan.fault, text, place, field)
    found = {segment.name: text[segment.start : segment.end] for segment in scan.segments}
    think = found.get(_THINK.name) if _CLOSE in text else None
    rest = text.split(_CLOSE, 1)[1] if think is not None else text
    if think is not None:
        think = think.removeprefix(_THINK.open).removesuffix(_CLOSE).strip()
    if answer_from == "field":
        return think, None
    if answer_from == "tag":
        answer: str | None = found[_ANSWER.name].removeprefix(_ANSWER.open).removesuffix(_ANSWER.close or "")
    else:
        answer = _boxed(rest) if answer_from == "boxed" else rest
    if answer is None:
        raise _segment_error("no-answer", "the response has no \\boxed{..}", place, field)
    if not clean_answer(answer):
        raise _segment_error("empty-answer", "the response has no text where its answer should be", place, field)
    return think, clean_answer(answer)


def has_answer_tag(text: str) -> bool:
    """Whether a tag of an answer stands behind the trace of a response."""
    behind = text.split(_CLOSE, 1)[-1]
    return any(tag in behind for tag in (_ANSWER.open, str(_ANSWER.close)))


def _told(fault: SegmentError, text: str, place: Place, field: str) -> SegmentError:
    """A fault of a response with its place; of a missing answer with what stands there instead, and what to do."""
    kind, message, remedy = fault.kind, fault.message, str(fault.remedy)
    if kind == "no-answer":
        trace, closed, behind = text.partition(_CLOSE)
        remedy = f"{remedy}; answer_from can also be boxed, after_think or field"
        if _ANSWER.open in trace and closed:
            kind, message = "answer-in-think", f"{message} behind its trace, but one inside it"
            remedy = "mend the response, or leave the row out"
        elif has_answer_tag(text):
            remedy = "mend the response, or leave the row out"
        elif behind.strip():
            kind, message = "untagged-answer", f"{message}, only text behind {_CLOSE}"
            remedy = "read it with answer_from=after_think (or boxed, or field), or leave the row out"
        if near := near_tags(text):
            remedy = near if _ANSWER.open in near else f"{near}; {remedy}"
    return SegmentError(message, kind=kind, file=place.file, record=place.record, field=field, remedy=remedy)


def plain_name(name: str) -> str:
    """In lower case and without what joins words."""
    return re.sub(r"[ _-]", "", name).lower()


def near_tags(text: str) -> str | None:
    """What to do about a response whose trace or answer stands in tags of another name; None if it has none such.

    The segments that it gives are those of the response itself, so only where they would be found is it given.
    """
    found = {}
    for spec, called in ((_THINK, LIKE_THINK), (_ANSWER, _LIKE_ANSWER)):
        names = [name for name in _TAG.findall(text) if plain_name(name) in called]
        near = [name for name in names if f"<{name}>" != spec.open and f"</{name}>" in text]
        if near and spec.open not in text:
            found[spec] = near[0]
    if not found:
        return None
    tags = " and ".join(f"<{name}>" for name in found.values())
    ours = " and ".join(spec.open for spec in found)
    own = [
        (s.name, f"<{found[s]}>", f"</{found[s]}>") if s in found else (s.name, s.open, s.close) for s in THINK_ANSWER
    ]
    way = f"it has {tags}; rename {'it' if len(found) == 1 else 'them'} to {ours}"
    if scan_segments(text, [SegmentSpec(*entry) for entry in own]).fault is not None:
        return way
    return f"{way}, or name your tags with scale_segments '{json.dumps(own)}'"


def split_segments(
    text: str, segments: Sequence[SegmentSpec], *, place: Place, field: str, trace_needed: bool = True
) -> tuple[str | None, str]:
    """(trace, answer) of a response of any segments: what stands in those before the last, and in the last.

    Raises:
        SegmentError: a segment is missing (without ``trace_needed`` only the last may not be), unclosed, repeated, out
            of order, or (the last) empty.
    """
    last = segments[-1]
    scan = scan_segments(text, segments, None if trace_needed else (last.name,))
    fault = scan.fault
    if fault is not None:
        ways = ['on_missing "skip" leaves such rows out']
        ways += ['"train" needs no trace'] if trace_needed else []
        ways += ["answer_from=field takes the answer of the field"] if fault.kind == f"no-{last.name}" else []
        where: dict[str, Any] = {"file": place.file, "record": place.record, "field": field}
        raise SegmentError(fault.message, kind=fault.kind, remedy=f"{fault.remedy}; {', '.join(ways)}", **where)
    specs = {spec.name: spec for spec in segments}
    *trace, answer = [
        text[found.start : found.end].removeprefix(specs[found.name].open).removesuffix(specs[found.name].close or "")
        for found in scan.segments
    ]
    if not clean_answer(answer):
        kind = f"empty-{segments[-1].name}"
        raise _segment_error(kind, "the response has no text where its answer should be", place, field)
    return "\n\n".join(part.strip() for part in trace) or None, clean_answer(answer)


def answer_alone(answer: str, segments: Sequence[SegmentSpec]) -> str:
    """A response that is its last segment only."""
    return f"{segments[-1].open}{answer}{segments[-1].close or ''}"


def clean_answer(text: str) -> str:
    """The answer without outer white space and a leading "Final Answer:" or "Answer:"."""
    start = 0
    while lead := _LEAD.match(text, start):
        start = lead.end()
    return text[start:].strip()


def answer_text(value: Any, place: Place, *, field: str = "answer") -> str:
    """The answer in a field as text.

    Raises:
        DataError: it is empty or neither text nor a number.
    """
    text = clean_answer("" if value is None else str(value))
    if not text:
        raise place.error("the answer is empty", field=field, remedy="give it, or leave the row out")
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value != value:
        remedy = "give it as text or a number, or leave the row out"
        raise place.error(f"an answer must be text or a number, not {type(value).__name__}", field=field, remedy=remedy)
    return text


def typed_answer(answer: str, kind: Any, *, choices: Sequence[str] | None, place: Place) -> tuple[str, AnswerKind]:
    """The answer in the form of its kind (for ``choice`` the letter), and the kind.

    Where the record names no kind: ``choice`` if there are choices, ``number`` if the answer is a decimal number, else
    ``text``. A kind ``choice`` that it names says that a lone letter is one, which the choices may be as well.

    Raises:
        DataError: an unknown kind, or an answer that no prediction could match: none of the choices, no number, or
            nothing visible; a letter of one choice that is the text of another.
    """
    named = kind is not None
    if kind is None:
        kind = "choice" if choices else "number" if is_decimal(answer) else "text"
    if kind not in KINDS:
        raise place.error(f"unknown kind {kind!r}", field="kind", remedy=f"use one of {', '.join(KINDS)}")
    typed = _letter(answer, choices, place, named=named) if kind == "choice" else answer
    try:
        check_reference(typed, kind=kind, choices=choices)
    except EvaluationError as error:
        raise place.error(str(error), field="answer") from error
    return typed, kind


def is_decimal(text: str) -> bool:
    """Whether the text is a decimal number such as ``-1,234.5``, in digits that answers are compared by."""
    digits = any(character.isdigit() for character in text) and _DECIMAL.fullmatch(text) is not None
    return digits and parse_number(text) is not None


def _letter(answer: str, choices: Sequence[str] | None, place: Place, *, named: bool) -> str:
    """``(b)``, ``B.``, ``B. a dog`` or the text of one choice as the letter."""
    last = LETTERS[len(choices) - 1] if choices else LETTERS[-1]
    same = [letter for letter, choice in zip(LETTERS, choices or (), strict=False) if _same(choice, answer)]
    lone, first = _LETTER.fullmatch(answer), _LETTER_FIRST.fullmatch(answer)
    if lone and (letter := lone[1].upper()) <= last:
        if not named and len(same) == 1 and same[0] != letter:
            remedy = f"write {letter}. {choices[LETTERS.index(letter)]} or {same[0]}. {answer}"  # type: ignore[index]
            remedy += ', or add a column kind that holds "choice" if answers are letters'
            raise place.error(f"{answer!r} may be the letter of a choice or its text", field="answer", remedy=remedy)
        return letter
    if len(same) == 1:
        return same[0]
    if (
        first
        and (letter := (first[1] or first[2]).upper()) <= last
        and (choices is None or _same(choices[LETTERS.index(letter)], first[3]))
    ):
        return letter
    among = f"the choices are {', '.join(map(repr, choices))}" if choices else "without choices it must be a letter"
    if choices and len(choices) == 1:
        among += " (several in one cell are parted by |, or a JSON list)"
    message = f"the answer {shortened(answer)!r} is none of the choices"
    raise place.error(message, field="answer", remedy=shortened(among))


def _same(choice: str, answer: str) -> bool:
    return choice.strip().casefold() == answer.strip().rstrip(".").casefold() or choice.strip() == answer.strip()


def _boxed(text: str) -> str | None:
    """What stands in the last ``\\boxed{..}`` whose braces balance."""
    opened: list[int | None] = []
    last = None
    for mark in _BRACE.finditer(text):
        if mark[0] != "}":
            opened.append(None if mark[0] == "{" else mark.end())
        elif opened and (begin := opened.pop()) is not None and (last is None or begin > last[0]):
            last = (begin, mark.start())
    return text[slice(*last)] if last else None


def _segment_error(kind: str, message: str, place: Place, field: str) -> DataError:
    remedy = "choose another answer_from, or leave the row out"
    return SegmentError(message, kind=kind, file=place.file, record=place.record, field=field, remedy=remedy)
