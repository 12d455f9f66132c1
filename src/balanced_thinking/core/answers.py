"""One parser for responses and one rule for equal answers, shared by rewards, evaluation and data checks.

Kinds of malformed responses, the answer that is taken from a response, and the matching of choices, numbers and texts
are ours (docs/method.md). Tags are matched exactly: ``<Think>`` is plain text.

What it leaves out: counting tokens (``evaluation.generation``), rates over many responses (``evaluation.metrics``),
judging by a model or by mathematical equivalence. Pure standard library.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from balanced_thinking.core.segments import (
    THINK_ANSWER,
    SegmentScan,
    SegmentSpec,
    scan_segments,
    tags_of,
    without_lead,
)
from balanced_thinking.errors import EvaluationError

MALFORMED_KINDS = (
    "no-think",
    "unclosed-think",
    "no-answer",
    "unclosed-answer",
    "empty-answer",
    "duplicate",
    "order",
)  # fmt: skip
ANSWER_KINDS = ("choice", "number", "text")

# A lone letter ("B", "(b)", "B.") and a letter before a text ("B. a dog", "(B) a dog"); never "A dog", an article.
_LONE_LETTER = re.compile(r"[(\[{<]?\s*([A-Za-z])(?:\s*[)\]}>])?(?:\s*[.:])?")
_LETTER_FIRST = re.compile(r"(?:[(\[{<]\s*([A-Za-z])\s*[)\]}>]|([A-Za-z])\s*[.:)\]}>])")
# Another letter behind it, in brackets ("f(x)" has none) or at the start of a line: then no choice is named.
_LETTER_LATER = re.compile(r"(?<!\w)[(\[{<]\s*([A-Za-z])\s*[)\]}>]|^[^\S\n]*([A-Za-z])\s*[.:)\]}>]", re.MULTILINE)
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?")
_MINUS = dict.fromkeys(map(ord, "\u2212\u2010\u2011\u2012\u2013\u207b\uff0d\ufe63"), "-")
_GROUPED = re.compile(r"[^\d,]*\d{1,3}(?:,\d{2,3})*,\d{3}(?!\d)[^,]*")  # thousands, lakhs and crores too
_RAISED = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u207b]+")
_ARTICLES = ("a ", "an ", "the ")
_MEANS_SOMETHING = "#%\u2030\u00b0"  # punctuation to Unicode, at the end of "F#" and "5 %" a part of what is said


@dataclass(frozen=True, slots=True)
class ParsedResponse:
    """What stands in a response.

    Attributes:
        think: Text inside the think tags, None if there is no ``<think>``; if it is unclosed, up to ``<answer>``.
        answer: The answer to score, without a leading "Final Answer:"; None if there is none, "" if it is empty.
        malformed: None for a well-formed response, else the first kind of ``MALFORMED_KINDS`` that applies.
    """

    think: str | None
    answer: str | None
    malformed: str | None


def parse_response(text: str, prefix: str = "", segments: Sequence[SegmentSpec] = THINK_ANSWER) -> ParsedResponse:
    """Reads think and answer out of a response, however malformed, and names its fault.

    The answer is searched after the first ``</think>``, or in the whole text if there is none: the first closed answer
    element; if it is unclosed, the rest after its tag; if the response has no tag at all, the whole text; else None.
    A leading "Final Answer:" or "Answer:" is removed. Between ``<think>`` and the first ``</think>`` other tags are
    plain text. With other segments the last is the answer, and think runs from the first to the last but one.

    Args:
        text: The response without its end-of-turn token.
        prefix: What the chat template already wrote of the response, such as ``<think>``.
        segments: What the model was trained to write.

    Returns:
        A ``ParsedResponse``; any string is accepted.

    Example:
        >>> parse_response("<think>two dogs</think><answer> Final Answer: B </answer>")
        ParsedResponse(think='two dogs', answer='B', malformed=None)
    """
    whole = prefix + text
    scan = scan_segments(whole, segments)
    spans = _spans(whole, segments, scan)
    think = whole[slice(*spans["think"])].strip() if "think" in spans else None
    if "answer" in spans:
        answer: str | None = without_lead(whole[slice(*spans["answer"])])
    else:
        answer = None if any(tag in whole for tag in tags_of(segments)) else without_lead(whole)
    return ParsedResponse(think, answer, _malformed_kind(scan, segments))


def inner_spans(text: str, segments: Sequence[SegmentSpec] = THINK_ANSWER) -> dict[str, tuple[int, int]]:
    """Characters inside the tags, as ``{"think": (start, end), "answer": (start, end)}``; absent ones are left out.

    The same elements as ``parse_response`` reads, so that lengths are counted on what is scored.
    """
    return _spans(text, segments, scan_segments(text, segments))


def _spans(text: str, segments: Sequence[SegmentSpec], scan: SegmentScan) -> dict[str, tuple[int, int]]:
    *trace, last = segments
    # Inside the parts of a trace that stand before its last, the tags searched for are plain text.
    apart = [(part.start, part.end) for part in scan.closed if part.name in [spec.name for spec in trace[:-1]]]
    trace_open, trace_close = (trace[0].open, str(trace[-1].close)) if trace else ("", "")
    closing = _find(text, trace_close, 0, apart) if trace else -1
    answer = text.find(last.open, closing + len(trace_close)) if closing >= 0 else _find(text, last.open, 0, apart)
    opening = text.find(trace_open) if trace else -1
    spans = {}
    if opening >= 0:
        start = opening + len(trace_open)
        close = _find(text, trace_close, start, apart)
        spans["think"] = (start, _first_of(close, answer if answer >= start else -1, len(text)))
    if answer >= 0:
        start = answer + len(last.open)
        spans["answer"] = (start, _first_of(text.find(last.close, start) if last.close else -1, len(text)))
    return spans


def _find(text: str, tag: str, start: int, apart: Sequence[tuple[int, int]]) -> int:
    """Where ``tag`` first stands from ``start`` on and outside the spans ``apart``, else -1."""
    at = text.find(tag, start)
    for begin, end in apart:
        if begin <= at < end:
            at = text.find(tag, end)
    return at


def answers_match(prediction: str | None, reference: str, *, kind: str, choices: Sequence[str] | None = None) -> bool:
    """Whether a predicted answer equals the reference, by the rule of its kind.

    * ``choice``: a lone letter, brackets, "." or ":" after it and case ignored ("(B)", "B. a dog", "b"); else the text
      of a choice, compared as ``text``, but where that does not tell two choices apart ("-3" and "3", "ff" and "FF")
      as it is written. A letter beyond the given choices is no letter; several letters name no choice.
    * ``number``: commas between thousands, %, currency signs and a final dot removed, Unicode minus read as minus,
      English words from zero to one hundred; compared as decimals ("21.0", "21", "twenty-one").
    * ``text``: NFKC (raised digits as "^2"), case folded, Unicode minus read as minus, outer punctuation, a leading
      article and repeated spaces removed; equality. The sign or dot of a number ("-3 m", ".5") and #, % and ° stay.

    Args:
        prediction: Any text; None or an empty one is wrong. Never raises, whatever it holds.
        reference: The right answer; for ``choice`` the letter (or the text of one choice).
        kind: ``choice``, ``number`` or ``text``.
        choices: Texts of the choices, in order of their letters.

    Raises:
        EvaluationError: unknown ``kind``, or a reference that cannot be of this kind (see ``check_reference``).
    """
    check_reference(reference, kind=kind, choices=choices)
    if prediction is None or not _trim(prediction):
        return False
    if kind == "choice":
        return _same_choice(prediction, reference, choices)
    if kind == "number":
        value = parse_number(prediction)
        return value is not None and value == parse_number(reference)
    return _same_text(prediction, reference)


def check_reference(reference: str, *, kind: str, choices: Sequence[str] | None = None) -> None:
    """Refuses a reference that no prediction could match.

    Raises:
        EvaluationError: unknown ``kind``; an empty reference; a choice that is neither a letter within the choices nor
            the text of one; a number that is not a number.
    """
    if kind not in ANSWER_KINDS:
        raise EvaluationError(f"unknown answer kind {kind!r}; use one of {', '.join(ANSWER_KINDS)}")
    if not _trim(reference):
        raise EvaluationError("the reference answer is empty; give every question an answer")
    if kind == "number" and parse_number(reference) is None:
        raise EvaluationError(f"the reference answer {reference!r} is not a number; use kind 'text' for it")
    if kind == "choice" and _choice_index(reference, choices) is None:
        listed = f"one of the {len(choices)} choices" if choices else "a letter"
        raise EvaluationError(f"the reference answer {reference!r} is not {listed}; give the letter of a choice")


def parse_number(text: str) -> Decimal | None:
    """The decimal that a text spells, by the ``number`` rule of ``answers_match``; None if it spells none."""
    kept = "".join(c for c in text.translate(_MINUS) if c not in "%％" and unicodedata.category(c) != "Sc")
    kept = _trim(kept).replace("，", ",")
    kept = _trim(kept[:-1]) if kept.endswith((".", ",")) else kept
    kept = kept.replace(",", "") if _GROUPED.fullmatch(kept) else kept
    if _NUMBER.fullmatch(kept):
        try:
            return Decimal(kept)
        except InvalidOperation:  # a digit of a script that Decimal does not know
            return None
    return _NUMBER_WORDS.get(" ".join(kept.casefold().replace("-", " ").split()))


def normalise_text(text: str) -> str:
    """A text as the ``text`` rule of ``answers_match`` compares it; one of punctuation only is kept as it is."""
    raised = _RAISED.sub(lambda match: "^" + unicodedata.normalize("NFKC", match[0]), text)
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", raised).casefold())
    spaced = " ".join(folded.translate(_MINUS).split())
    bare = _strip_outer(spaced)
    for article in _ARTICLES:
        if bare.startswith(article):
            bare = _strip_outer(bare.removeprefix(article)) or bare
            break
    return bare or _trim(spaced)


def _same_choice(prediction: str, reference: str, choices: Sequence[str] | None) -> bool:
    right = _choice_index(reference, choices)
    if right is None or _choice_index(prediction, choices) == right:
        return right is not None
    # Two choices may be written alike: then the text of one is the text of the other.
    return right in _with_text(prediction, choices) and _lone_letter(prediction) is None


def _choice_index(text: str, choices: Sequence[str] | None) -> int | None:
    """A lone letter, else the text of a choice (so that "A.I." may be one), else a letter in front of a text."""
    normal = _trim(unicodedata.normalize("NFKC", text))
    lone = _letter_index(_lone_letter(normal), choices)
    if lone is not None:
        return lone
    if found := _with_text(text, choices):
        return found[0]
    match = _LETTER_FIRST.match(normal)
    index = _letter_index(match[1] or match[2], choices) if match else None
    if match is None or index is None:
        return None
    rest = normal[match.end() :]
    if choices and index in _with_text(rest, choices):  # its own text may hold letters: "A. Vitamin (C)"
        return index
    later = {_letter_index(other[1] or other[2], choices) for other in _LETTER_LATER.finditer(rest)}
    return None if later - {None, index} else index


def _with_text(text: str, choices: Sequence[str] | None) -> list[int]:
    """The choices with this text: as it is written, else without a final dot, else by the ``text`` rule; several only
    if they are written alike, since a rule that takes "-3" for "3" cannot choose between them."""
    for rule in (_written, _without_dot, normalise_text):
        wanted = rule(text)
        same = [index for index, choice in enumerate(choices or ()) if rule(choice) == wanted]
        if same and len({_written(choices[index]) for index in same}) == 1:  # type: ignore[index]
            return same
    return []


def _written(text: str) -> str:
    return " ".join(_trim(unicodedata.normalize("NFC", text)).translate(_MINUS).split())


def _without_dot(text: str) -> str:
    return _written(text).rstrip(". ")


def _same_text(one: str, other: str) -> bool:
    return normalise_text(one) == normalise_text(other)


def _lone_letter(text: str) -> str | None:
    match = _LONE_LETTER.fullmatch(_trim(unicodedata.normalize("NFKC", text)))
    return match[1] if match else None


def _letter_index(letter: str | None, choices: Sequence[str] | None) -> int | None:
    """Its place in the alphabet; None where there is no letter or no choice of that place."""
    index = ord(letter.upper()) - ord("A") if letter else None
    return None if index is None or (choices and index >= len(choices)) else index


def _malformed_kind(scan: SegmentScan, segments: Sequence[SegmentSpec]) -> str | None:
    """The scanner's fault with every segment before the last called think."""
    if scan.fault is None:
        return None
    if scan.fault.kind in ("duplicate", "order"):
        return scan.fault.kind
    sort, _, name = scan.fault.kind.partition("-")
    return f"{sort}-{'answer' if name == segments[-1].name else 'think'}"


def _first_of(*positions: int) -> int:
    return min(position for position in positions if position >= 0)


def _trim(text: str) -> str:
    """Without outer white space, control and invisible format characters (zero-width space, byte-order mark)."""
    return _strip_categories(text, ("Z", "Cc", "Cf"))


def _strip_outer(text: str) -> str:
    """Without outer punctuation and space; the sign or dot in front of a number and ``_MEANS_SOMETHING`` stay."""
    bare = _strip_categories(text, ("P", "Z", "Cc", "Cf"), keep=_MEANS_SOMETHING)
    before = text[: text.find(bare)] if bare[:1].isdigit() else ""
    sign = re.search(r"-?\.?$", before)
    return (sign[0] if sign else "") + bare


def _strip_categories(text: str, categories: tuple[str, ...], keep: str = "") -> str:
    def outer(character: str) -> bool:
        return character not in keep and unicodedata.category(character).startswith(categories)

    start, end = 0, len(text)
    while start < end and outer(text[start]):
        start += 1
    while end > start and outer(text[end - 1]):
        end -= 1
    return text[start:end]


def _number_words() -> dict[str, Decimal]:
    ones = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    words = [*ones.split(), "seventeen", "eighteen", "nineteen"]
    table = {word: Decimal(value) for value, word in enumerate(words)}
    for ten, name in enumerate(("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"), start=2):
        table[name] = Decimal(10 * ten)
        table.update({f"{name} {words[one]}": Decimal(10 * ten + one) for one in range(1, 10)})
    return table | {"one hundred": Decimal(100), "a hundred": Decimal(100), "hundred": Decimal(100)}


_NUMBER_WORDS = _number_words()
