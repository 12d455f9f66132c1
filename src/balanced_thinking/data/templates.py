"""A row as the family's chat template renders it, and where its response and segments are in that text.

Segments are found in the rendered turn, not in the data: a template may strip, move or pre-fill tags, and then training
would teach something else than inference asks. Such a template is an error before the first step. What it leaves out:
tokens and pictures (``collate``). Torch-free.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from balanced_thinking.core.segments import SegmentSpec, scan_segments, segment_of_characters, tags_of, token_starts
from balanced_thinking.data.families import refuse_own_marks
from balanced_thinking.data.rowcheck import Row
from balanced_thinking.errors import ConfigError, DataError, SegmentError


@dataclass(frozen=True, slots=True)
class Rendered:
    """A row as text.

    Attributes:
        text: Prompt and response, one image mark per picture.
        response_start: Character at which the response starts, behind whatever the template pre-fills.
        prefix: The pre-filled part that belongs to the turn (such as ``<think>``), or "".
    """

    text: str
    response_start: int
    prefix: str


@dataclass(frozen=True, slots=True)
class TokenTargets:
    """Token ids from the first response token on, and the segment of each; ids stop at the end of the turn.

    ``tail`` counts all tokens from the first response token to the end of the text, ``len(segments)`` those trained.
    """

    tail: list[int]
    segments: list[int]
    fault: SegmentError | None


def tokenizer_of(processor: Any) -> Any:
    """The tokenizer inside a processor, or the tokenizer itself."""
    return getattr(processor, "tokenizer", processor)


def render_prompt(processor: Any, messages: Sequence[dict[str, Any]], *, generate: bool = True, **template: Any) -> str:
    """The text of ``messages`` as the chat template writes it, ready for the response if ``generate``.

    ``template`` are options of the chat template itself.

    Raises:
        ConfigError: the model has no chat template, or its template refuses the messages.
    """
    if not processor.chat_template:
        raise ConfigError(
            f"the model's {type(processor).__name__} has no chat template, so nothing says how its prompts are "
            "written; put one into its folder as chat_template.jinja, or take the instruction-tuned model"
        )
    contents = list(messages)
    if processor is tokenizer_of(processor):
        contents = [{**message, "content": _plain(message["content"])} for message in messages]
    try:
        return processor.apply_chat_template(contents, tokenize=False, add_generation_prompt=generate, **template)
    except TemplateError as error:
        raise ConfigError(
            f"the chat template refuses turns of {', '.join(message['role'] for message in messages)} "
            f"({' '.join(str(error).split())}); leave out the turns that it does not know (system_prompt)"
        ) from error


def render(processor: Any, row: Row, segments: Sequence[SegmentSpec]) -> Rendered:
    """The row's whole text and the place of its response.

    Raises:
        ConfigError: the template changes the response or the turns before it, so that what would be trained is not
            what inference asks for.
        DataError: the text spells a picture's token itself.
    """
    rendered = _rendered(processor, row, segments)
    refuse_own_marks(processor, rendered.text, pictures=len(row.images), record=row.id)
    return rendered


def prefilled(
    processor: Any,
    messages: Sequence[dict[str, Any]],
    *,
    prompt: str,
    segments: Sequence[SegmentSpec],
    **template: Any,
) -> str:
    """What the generation prompt writes of the response itself: all from its own first tag on, else "".

    Such as ``<think>``, a closed think, or the trace's first words. ``prompt`` is ``render_prompt(processor, messages,
    **template)``.
    """
    tag = re.compile("|".join(map(re.escape, tags_of(segments))))
    found = [match.start() for match in tag.finditer(prompt)]
    if not found:
        return ""
    # Tags of the conversation come first, as many as it has without a generation prompt.
    own = found[len(tag.findall(render_prompt(processor, messages, generate=False, **template))) :]
    return prompt[own[0] :] if own else ""


def _rendered(processor: Any, row: Row, segments: Sequence[SegmentSpec]) -> Rendered:
    if row.text is not None:
        prompt, completion = row.text
        eos = tokenizer_of(processor).eos_token or ""
        ending = "" if completion.endswith(eos) else eos
        return Rendered(prompt + completion + ending, len(prompt), "")
    assert row.messages is not None
    text = render_prompt(processor, row.messages, generate=False)
    prompt = render_prompt(processor, row.messages[:-1])
    if not text.startswith(prompt):
        raise ConfigError(
            f"record {row.id}: the chat template does not render the prompt of a training row as it does at inference "
            f"(they part at {_parting(text, prompt)!r}); use a template whose prompt is a prefix of the whole chat"
        )
    prefix = prefilled(processor, row.messages[:-1], prompt=prompt, segments=segments)
    turn = prefix + text[len(prompt) :]
    if _squeezed(row.response) not in _squeezed(turn):
        raise ConfigError(
            f"record {row.id}: the chat template changes the response (it strips, moves or rewrites a part such as "
            f"{segments[0].open}); use a template that keeps the assistant's text"
        )
    return Rendered(text, len(prompt), prefix)


def token_targets(
    tokenizer: Any,
    rendered: Rendered,
    *,
    row: Row,
    segments: Sequence[SegmentSpec],
    end_ids: frozenset[int],
    tags: str = "own",
) -> TokenTargets:
    """Ids and segments of the response's tokens, by the offsets of the whole text tokenised in one piece.

    A token belongs to the segment of its first character, with ``tags="next"`` of its last, since a token that begins a
    closing tag (``.</``) decides to close; the end-of-turn token, and text behind the last segment, to the last
    segment. What the template adds after the end-of-turn token is not trained.

    Raises:
        ConfigError: the template ends no turn, so the model would never learn to stop.
        DataError: the response holds the end-of-turn token before its end.
    """
    encoded = tokenizer(
        rendered.text, return_offsets_mapping=True, add_special_tokens=adds_special_tokens(tokenizer, rendered.text)
    )
    offsets = [tuple(pair) for pair in encoded["offset_mapping"]]
    starts = token_starts(rendered.text, offsets)
    first = next((i for i, start in enumerate(starts) if start >= rendered.response_start), len(starts))
    tail = list(encoded["input_ids"][first:])
    last = next((i for i, token in enumerate(tail) if token in end_ids), None)
    if last is None:
        raise ConfigError(
            f"record {row.id}: the chat template writes no end-of-turn token after the response, so the model would "
            "never learn to stop; use a template that ends the assistant's turn with the tokenizer's eos_token"
        )
    end_start = starts[first + last]
    response = rendered.prefix + rendered.text[rendered.response_start : end_start]
    if _squeezed(row.response.removesuffix(tokenizer.eos_token or "")) not in _squeezed(response):
        raise DataError(
            f"the response holds the end-of-turn token {tokenizer.convert_ids_to_tokens(tail[last])} in its text",
            record=row.id,
            remedy="remove it from the data",
        )
    scan = scan_segments(response, segments)
    characters = segment_of_characters(response, scan.segments, segments, tags)
    shift = rendered.response_start - len(rendered.prefix)
    places = starts[first : first + last + 1]
    if tags == "next":
        ends = [end - 1 for _, end in offsets[first : first + last]]
        places[:-1] = [max(start, end) for start, end in zip(places[:-1], ends, strict=True)]
    ids = [characters[place - shift] for place in places]
    return TokenTargets(tail, ids, scan.fault)


def adds_special_tokens(tokenizer: Any, text: str) -> bool:
    """Whether the tokenizer must add its special tokens: not when the template has written them already."""
    return not (tokenizer.bos_token and text.startswith(tokenizer.bos_token))


def end_of_turn_ids(tokenizer: Any, generation_config: Any = None) -> frozenset[int]:
    """All ids that end a turn: the tokenizer's and those at which generation stops."""
    ids = [tokenizer.eos_token_id]
    more = getattr(generation_config, "eos_token_id", None)
    ids += more if isinstance(more, list | tuple) else [more]
    return frozenset(int(i) for i in ids if i is not None)


def _plain(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _parting(text: str, prompt: str) -> str:
    common = next(
        (i for i, (a, b) in enumerate(zip(text, prompt, strict=False)) if a != b), min(len(text), len(prompt))
    )
    return prompt[max(0, common - 10) : common + 20]
