"""LLaVA-CoT-100k (Xkev/LLaVA-CoT-100k, train.jsonl): a conversation whose response has four stages.

    <SUMMARY>..</SUMMARY><CAPTION>..</CAPTION><REASONING>..</REASONING><CONCLUSION>..</CONCLUSION>

The conclusion is the answer; the stages before it are the trace, each under its name. With its own stages asked for as
segments (``scale_segments="llava-cot"``) the response stays as it is. The picture is shown by the first turn.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from balanced_thinking.core.segments import LLAVA_COT, THINK_ANSWER, scan_segments
from balanced_thinking.data.example import Example
from balanced_thinking.data.formats import sharegpt
from balanced_thinking.data.formats.options import Notes, Options
from balanced_thinking.data.formats.retell import chat, no_answer, own_answer, response_of, retell, tagged
from balanced_thinking.data.formats.source import Record
from balanced_thinking.errors import SegmentError

FIELDS = sharegpt.FIELDS
STAGES = tuple(spec.name.upper() for spec in LLAVA_COT)


def sniff(record: Record) -> str | None:
    """Why the record is of this form, or None."""
    return "its response has a <CONCLUSION>" if "<CONCLUSION>" in sharegpt.last_value(record) else None


def read(record: Record, options: Options, *, notes: Notes) -> Example:
    """One record as an example.

    Raises:
        SegmentError: no conclusion, or a stage that comes twice, unclosed or out of order.
        DataError: any other fault.
    """
    turns = _with_mark(chat(record, "conversations", role="from", content="value"), record)
    said = response_of(turns, record, "conversations")
    if options.segments == THINK_ANSWER or options.segments[-1].open not in said:
        if f"<{STAGES[-1]}>" not in said:
            raise no_answer(record, "conversations", "<CONCLUSION>..</CONCLUSION>")
        turns = [_joined(turns[: n + 1], record, notes) for n in range(len(turns))]
    return retell(record, {"messages": turns}, own_answer(options, "llava-cot"), notes=notes, names=sharegpt.NAMES)


def _with_mark(turns: list[dict[str, Any]], record: Record) -> list[dict[str, Any]]:
    """The turns, of which the first shows the record's one picture, since this data set has no marks."""
    one_picture = isinstance(record.fields.get("image"), str | Mapping)
    if not one_picture or any("<image>" in str(turn["content"]) for turn in turns):
        return turns
    return [
        turn | {"content": f"<image>\n{turn['content']}"} if n == 0 and isinstance(turn["content"], str) else turn
        for n, turn in enumerate(turns)
    ]


def _joined(turns: Sequence[Mapping[str, Any]], record: Record, notes: Notes) -> dict[str, Any]:
    """The last of the turns; a response with its stages told as think and answer."""
    said = turns[-1]["content"]
    if turns[-1]["role"] != "assistant" or not any(f"<{name}>" in str(said) for name in STAGES):
        return dict(turns[-1])  # a turn before the last may be plain; the last was looked at before
    stages = _stages(response_of(turns, record, "conversations"), record, notes)
    think = "\n\n".join(f"{name.capitalize()}: {text}" for name, text in stages.items() if name != STAGES[-1] and text)
    return {**turns[-1], "content": tagged(think, stages[STAGES[-1]], record, "conversations")}


def _stages(text: str, record: Record, notes: Notes) -> dict[str, str]:
    scan = scan_segments(text, LLAVA_COT, (LLAVA_COT[-1].name,))
    if scan.fault is not None:
        fault, remedy = scan.fault, f"{scan.fault.remedy}, or leave the row out"
        where: dict[str, Any] = {"file": record.file, "record": record.place.record, "field": "conversations"}
        raise SegmentError(fault.message, kind=fault.kind, remedy=remedy, **where)
    ends = [0, *(segment.end for segment in scan.segments)]
    starts = [*(segment.start for segment in scan.segments), len(text)]
    outside = any(text[end:start].strip() for end, start in zip(ends, starts, strict=True))
    notes["text outside the stages was left out"] += outside
    specs = {spec.name: spec for spec in LLAVA_COT}
    return {
        name.upper(): text[start + len(specs[name].open) : end - len(str(specs[name].close))].strip()
        for name, start, end in ((segment.name, segment.start, segment.end) for segment in scan.segments)
    }
