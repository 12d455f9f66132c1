"""Where the segments of a response are, in characters and in tokens.

A response is a text such as ``<think> ... </think><answer> ... </answer>``. Segments are found in the text, by
character offsets, and carried over to tokens by the tokenizer's offsets, so that training sees the very ids that the
chat template gives at inference (no piecewise tokenisation). The rules are ours (docs/method.md):

* a tag belongs to its segment; text between two segments belongs to the one before it; text after the last segment,
  the end-of-turn token included, belongs to the last; text before the first segment belongs to none, but white space
  directly before it to the first, since templates write some there and tokenizers join it to the tag (Mistral's
  ``▁<``), and a model must generate what it begins with; ``TAGS`` names other places for the tags;
* between an opening tag and its first closing tag, the tags of other segments are plain text; a closing tag outside its
  segment is a fault, and so is the answer's opening tag inside the answer, where it tells a second start;
* a token that straddles a boundary belongs to the segment of its first character.

What it leaves out: chat templates and tokenizers (``data.collate``), reading a generated response
(``core.answers``).
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from balanced_thinking.errors import ConfigError, SegmentError


@dataclass(frozen=True, slots=True)
class SegmentSpec:
    """Name and tags of one segment; ``close=None`` lets it run to the end of the turn.

    Raises:
        ConfigError: an empty name or tag, or the same text as opening and closing tag.
    """

    name: str
    open: str
    close: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or not isinstance(self.open, str) or not self.open.strip():
            raise ConfigError(f"a segment needs a name and an opening tag, got name {self.name!r}, open {self.open!r}")
        if self.close is not None and (not isinstance(self.close, str) or not self.close.strip()):
            raise ConfigError(f"segment {self.name!r}: the closing tag must be text or None, not {self.close!r}")
        if self.open == self.close:
            raise ConfigError(f"segment {self.name!r}: opening and closing tag are both {self.open!r}")


THINK_ANSWER: tuple[SegmentSpec, ...] = (
    SegmentSpec("think", "<think>", "</think>"),
    SegmentSpec("answer", "<answer>", "</answer>"),
)

# The stages of LLaVA-CoT (arXiv:2411.10440); the last is the answer.
LLAVA_COT: tuple[SegmentSpec, ...] = tuple(
    SegmentSpec(name, f"<{name.upper()}>", f"</{name.upper()}>")
    for name in ("summary", "caption", "reasoning", "conclusion")
)
SEGMENT_SETS: Mapping[str, tuple[SegmentSpec, ...]] = MappingProxyType(
    {"think-answer": THINK_ANSWER, "llava-cot": LLAVA_COT}
)

# Where tags count: in their own segment; a closing tag, with what stands between, in the segment it leads to; nowhere.
TAGS = ("own", "next", "none")

# No two runs of white space in a row: a response that ends in thousands of line breaks would take the square of them.
_LEAD = re.compile(r"\s*(?:\*\*\s*)?(?:final\s+)?answer\s*:(?:\s*\*\*)?", re.IGNORECASE)
_SHOWN = 60  # characters of a wrong setting in its message


@dataclass(frozen=True, slots=True)
class Segment:
    """Characters ``start`` (first of the opening tag) to ``end`` (behind the last of the closing tag) of a text."""

    name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class SegmentScan:
    """What a scan of one response found.

    Attributes:
        segments: Each segment at its first occurrence, in order of the text; an unclosed one runs to the end.
        closed: All segments that are closed, those that occur again included; inside them no other is found.
        fault: The first fault, if any.
    """

    segments: list[Segment]
    closed: list[Segment]
    fault: SegmentError | None


def check_specs(segments: Sequence[SegmentSpec]) -> tuple[SegmentSpec, ...]:
    """``segments`` as a tuple.

    Raises:
        ConfigError: no segment, a name or tag used twice, a tag that is part of another (the text would not tell which
            of the two it holds), or a segment without closing tag that is not the last.
    """
    specs = tuple(segments)
    if not specs:
        raise ConfigError("at least one segment is needed")
    names = [spec.name for spec in specs]
    tags = tags_of(specs)
    for what, values in (("name", names), ("tag", tags)):
        repeated = sorted({value for value in values if values.count(value) > 1})
        if repeated:
            raise ConfigError(f"segment {what} {repeated[0]!r} is used twice; every segment needs its own")
    for tag in tags:
        longer = next((other for other in tags if tag in other and tag != other), None)
        if longer is not None:
            raise ConfigError(f"segment tag {tag!r} is part of the tag {longer!r}; choose tags that can be told apart")
    if any(spec.close is None for spec in specs[:-1]):
        raise ConfigError("only the last segment may have no closing tag, since it runs to the end of the turn")
    return specs


def parse_segments(value: Any) -> tuple[SegmentSpec, ...]:
    """Segments as a setting gives them: None or a name of ``SEGMENT_SETS``, specs, or ``[[name, open, close or None],
    ...]``, which may be JSON text.

    Raises:
        ConfigError: an unknown name, or entries of another form.

    Example:
        >>> [spec.name for spec in parse_segments('[["why", "<why>", "</why>"], ["so", "<so>", null]]')]
        ['why', 'so']
    """
    if value is None or (isinstance(value, str) and value in SEGMENT_SETS):
        return SEGMENT_SETS[value or "think-answer"]
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            known = ", ".join(SEGMENT_SETS)
            told = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}.."
            raise ConfigError(f"segments {told!r} are unknown; choose {known}, or give a JSON list") from error
    if isinstance(value, list | tuple) and value and all(isinstance(entry, SegmentSpec) for entry in value):
        return check_specs(value)
    if not isinstance(value, list | tuple):
        raise ConfigError(f"segments must be a list of [name, opening tag, closing tag], not {value!r}")
    for entry in value:
        if not isinstance(entry, list | tuple) or len(entry) != 3:
            raise ConfigError(f"segments: each entry is [name, opening tag, closing tag], not {entry!r}")
    return check_specs([SegmentSpec(*entry) for entry in value])


def as_setting(segments: Sequence[SegmentSpec]) -> list[list[str | None]] | None:
    """Segments as ``parse_segments`` reads them, in one spelling only; None for think and answer."""
    if tuple(segments) == THINK_ANSWER:
        return None
    return [[spec.name, spec.open, spec.close] for spec in segments]


def find_segments(
    text: str, segments: Sequence[SegmentSpec] = THINK_ANSWER, required: Sequence[str] | None = None
) -> list[Segment]:
    """Segments of a response, which must be well-formed.

    Args:
        text: The response, from its first character to its last before the end-of-turn token.
        segments: Names and tags, in the order in which they must stand.
        required: Names that must occur; None means all. A segment that is not required may be absent, but if it is
            there it must be closed, unrepeated and in order.

    Returns:
        One ``Segment`` per segment present, in order of the text, tags included.

    Raises:
        SegmentError: a required segment is missing, or one is unclosed, repeated, out of order, or (the last) empty.
        ConfigError: the specs contradict each other, or ``required`` names an unknown segment.

    Example:
        >>> find_segments("<think>2+2</think><answer>4</answer>")
        [Segment(name='think', start=0, end=18), Segment(name='answer', start=18, end=36)]
    """
    scan = scan_segments(text, segments, required)
    if scan.fault is not None:
        raise scan.fault
    return scan.segments


def locate_segments(text: str, segments: Sequence[SegmentSpec] = THINK_ANSWER) -> list[Segment]:
    """The segments a response has, whatever its faults: each at its first occurrence, an unclosed one to the end."""
    return scan_segments(text, segments, ()).segments


def scan_segments(
    text: str, segments: Sequence[SegmentSpec] = THINK_ANSWER, required: Sequence[str] | None = None
) -> SegmentScan:
    """Segments and first fault of a response; the one scanner behind ``find_segments`` and ``locate_segments``.

    Faults in order of precedence, for the default pair: ``no-think``, ``unclosed-think``, ``no-answer``,
    ``unclosed-answer``, ``empty-answer``, ``duplicate``, ``order`` (docs/method.md).
    """
    specs = check_specs(segments)
    needed = _required_names(specs, required)
    elements = _elements(text, specs)
    first: dict[str, tuple[Segment, bool]] = {}
    for segment, closed in elements:
        first.setdefault(segment.name, (segment, closed))
    fault = _first_fault(text, specs, needed, elements)
    whole = [segment for segment, closed in elements if closed]
    return SegmentScan(sorted((segment for segment, _ in first.values()), key=lambda s: s.start), whole, fault)


def tags_of(segments: Sequence[SegmentSpec]) -> tuple[str, ...]:
    """All opening and closing tags."""
    return tuple(tag for spec in segments for tag in (spec.open, spec.close) if tag is not None)


def without_lead(text: str) -> str:
    """An answer without outer white space and a leading "Final Answer:" or "Answer:"."""
    match = _LEAD.match(text)
    return (text[match.end() :] if match else text).strip()


def segment_of_characters(
    text: str, found: Sequence[Segment], segments: Sequence[SegmentSpec] = THINK_ANSWER, tags: str = "own"
) -> list[int]:
    """Segment id of each character of a response, and of the end-of-turn token behind it: ``len(text) + 1`` ids.

    0 before the first segment and the white space in front of it, then 1, 2, ... by position in ``segments``; text
    between two segments, and behind the last, takes the id of the segment before it.

    Args:
        text: The response.
        found: Its segments, as ``scan_segments`` gives them.
        segments: Names and tags.
        tags: ``own``: tags belong to their segment. ``next``: a closing tag, and what stands between two segments,
            belongs to the segment that follows, so that a trace is closed with the weight of what it leads to.
            ``none``: tags have id 0.
    """
    names = [spec.name for spec in segments]
    ordered = sorted(found, key=lambda segment: segment.start)
    inner = [_span(text, segments[names.index(segment.name)], segment) for segment in ordered]
    starts = [segment.start for segment in ordered]
    if tags == "next":
        # An unclosed segment ends where the next one starts.
        starts[1:] = [min(end, start) for (_, end), start in zip(inner, starts[1:], strict=False)]
    if starts and tags != "none":
        starts[0] = len(text[: starts[0]].rstrip())
    ids = [0] * (len(text) + 1)
    for segment, start, stop in zip(ordered, starts, [*starts[1:], len(ids)], strict=False):
        ids[start:stop] = [names.index(segment.name) + 1] * (stop - start)
    if tags == "none":
        for segment, (begin, end) in zip(ordered, inner, strict=True):
            for first, last in ((segment.start, begin), (end, segment.end)):
                ids[first:last] = [0] * (last - first)
    return ids


def token_starts(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """First character of each token.

    Byte-level tokenizers may report offsets without a token's leading white space; the gap to the token before is
    then part of this token, so its first character is where the token before it ended.
    """
    starts, end_before = [], 0
    for start, end in offsets:
        gap = start > end_before and not text[end_before:start].strip()
        starts.append(end_before if gap else start)
        end_before = max(end_before, end)
    return starts


def _required_names(specs: tuple[SegmentSpec, ...], required: Sequence[str] | None) -> tuple[str, ...]:
    names = tuple(spec.name for spec in specs)
    if required is None:
        return names
    unknown = [name for name in required if name not in names]
    if unknown:
        raise ConfigError(f"required segment {unknown[0]!r} is not among the segments {', '.join(names)}")
    return tuple(required)


def _elements(text: str, specs: tuple[SegmentSpec, ...]) -> list[tuple[Segment, bool]]:
    """All elements in order, outside each other: (segment, closed?). Inside an element other tags are plain text."""
    found: list[tuple[Segment, bool]] = []
    position = 0
    absent: set[str] = set()

    def find(tag: str, start: int) -> int:
        # A tag that is not there from some place on is not there later: a response that repeats one tag for ever would
        # otherwise be searched to its end each time.
        at = -1 if tag in absent else text.find(tag, start)
        if at < 0:
            absent.add(tag)
        return at

    while True:
        nexts = [(at, spec) for spec in specs if (at := find(spec.open, position)) >= 0]
        if not nexts:
            return found
        start, spec = min(nexts, key=lambda pair: pair[0])
        if spec.close is None:
            return [*found, (Segment(spec.name, start, len(text)), True)]
        close = find(spec.close, start + len(spec.open))
        if close < 0:
            found.append((Segment(spec.name, start, len(text)), False))
            # What follows an unclosed tag is still looked through, so that a present answer is not called missing.
            position = start + len(spec.open)
        else:
            found.append((Segment(spec.name, start, close + len(spec.close)), True))
            position = close + len(spec.close)


def _first_fault(
    text: str, specs: tuple[SegmentSpec, ...], needed: tuple[str, ...], elements: list[tuple[Segment, bool]]
) -> SegmentError | None:
    names = [segment.name for segment, _ in elements]
    for spec in specs:
        if spec.name not in names:
            if spec.name in needed:
                return _fault(
                    f"no-{spec.name}", f"the response has no {spec.open}", "add the segment, or leave the row out"
                )
            continue
        if not elements[names.index(spec.name)][1]:
            return _fault(f"unclosed-{spec.name}", f"{spec.open} is never closed by {spec.close}", "close it")
        if spec is specs[-1] and not all(without_lead(inner) for inner in _answers(text, specs, elements)):
            return _fault(f"empty-{spec.name}", f"{spec.open} holds nothing", "give the answer, or leave the row out")
    return _duplicate(text, specs, elements) or _disorder(specs, names)


def _answers(text: str, specs: tuple[SegmentSpec, ...], elements: list[tuple[Segment, bool]]) -> list[str]:
    """What the last segment holds at its first occurrence, and at its first behind the trace, which is the answer."""
    *trace, last = specs
    found = [segment for segment, _ in elements if segment.name == last.name]
    ends = [segment.end for segment, closed in elements if closed and trace and segment.name == trace[-1].name]
    trace_end = min(ends, default=0)
    behind = [segment for segment in found if segment.start >= trace_end]
    return [_inner(text, last, segment) for segment in (*found[:1], *behind[:1])]


def _duplicate(text: str, specs: tuple[SegmentSpec, ...], elements: list[tuple[Segment, bool]]) -> SegmentError | None:
    """A segment or the tag of one that occurs again; the other tags inside a closed segment are plain text."""
    last = specs[-1]
    for spec in specs:
        own = [segment for segment, _ in elements if segment.name == spec.name]
        count = len(own)
        if spec is last and own:
            count += _inner(text, last, own[0]).count(last.open)
        if count > 1:
            return _fault("duplicate", f"{spec.open} occurs {count} times", "keep one")
    position = 0
    for start, end in [*((s.start, s.end) for s, closed in elements if closed), (len(text), len(text))]:
        for spec in specs:
            if spec.close is not None and spec.close in text[position:start]:
                return _fault("duplicate", f"{spec.close} stands where no {spec.open} is open", "take it out")
        position = end
    return None


def _disorder(specs: tuple[SegmentSpec, ...], names: list[str]) -> SegmentError | None:
    order = [spec.name for spec in specs if spec.name in names]
    if names != order:
        return _fault("order", f"segments stand in the order {', '.join(names)}", f"put them as {', '.join(order)}")
    return None


def _inner(text: str, spec: SegmentSpec, segment: Segment) -> str:
    start, end = _span(text, spec, segment)
    return text[start:end]


def _span(text: str, spec: SegmentSpec, segment: Segment) -> tuple[int, int]:
    """First character behind the opening tag, and the first of the closing tag (of an unclosed segment, its end)."""
    start = segment.start + len(spec.open)
    closed = spec.close is not None and text.endswith(spec.close, start, segment.end)
    return start, segment.end - len(spec.close or "") if closed else segment.end


def _fault(kind: str, message: str, remedy: str) -> SegmentError:
    return SegmentError(message, kind=kind, remedy=remedy)
