"""Rows in TRL's form become a ``Batch``: token ids as the chat template gives them, pictures, shifted targets.

The processor tokenises each row in one piece, as at inference; the segments of the response are carried over by the
offsets of the same text, and the ids of both must agree. Image tokens stand before the response, so their expansion
cannot move a segment. Labels are shifted here, once. What it leaves out: weights (they depend on the step), packing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from balanced_thinking.core.segments import THINK_ANSWER, SegmentSpec, check_specs
from balanced_thinking.data.batch import IGNORED, Batch
from balanced_thinking.data.families import arranged, keep_saved_settings, refuse_sizes
from balanced_thinking.data.images import open_image
from balanced_thinking.data.rowcheck import Row, read_row
from balanced_thinking.data.templates import (
    Rendered,
    TokenTargets,
    adds_special_tokens,
    end_of_turn_ids,
    render,
    token_targets,
    tokenizer_of,
)
from balanced_thinking.errors import ConfigError, DataError


class ScaleCollator:
    """Turns a list of rows into a ``Batch``.

    Args:
        processor: The family's processor (or a tokenizer for text-only models) with a chat template.
        segments: Names and tags, in segment order.
        tags: Where tags count: ``own``, ``next`` or ``none`` (``core.segments.segment_of_characters``).
        require_segments: Whether a malformed response is an error (``loss="scale"`` with ``on_malformed`` other than
            "keep"); otherwise the segments that a row has are marked.
        max_length: Longest row in tokens, image tokens included; None: no limit. Longer rows are an error, never cut.
        pad_to_multiple_of: Pad the batch to a multiple of this many tokens.
        generation_config: Names further end-of-turn tokens.
        with_labels: Also give unshifted ``labels``, for TRL's own ``loss_type="dft"``.

    Raises (on a call):
        DataError: a row cannot be used; names its id.
        ConfigError: the chat template does not suit the segments.
    """

    def __init__(
        self,
        processor: Any,
        *,
        segments: Sequence[SegmentSpec] = THINK_ANSWER,
        tags: str = "own",
        require_segments: bool = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        generation_config: Any = None,
        with_labels: bool = False,
    ) -> None:
        keep_saved_settings(processor)
        self.processor = processor
        self.segments = check_specs(segments)
        self.tags = tags
        self.require_segments = require_segments
        self.max_length = max_length
        self.pad_to_multiple_of = pad_to_multiple_of
        self.generation_config = generation_config
        self.with_labels = with_labels

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids that end a turn."""
        return end_of_turn_ids(tokenizer_of(self.processor), self.generation_config)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        parsed = [read_row(row, index=None) for row in rows]
        rendered = [render(self.processor, row, self.segments) for row in parsed]
        targets = [self._targets(row, text) for row, text in zip(parsed, rendered, strict=True)]
        batch = self._encode(parsed, rendered)
        self._place(batch, parsed, targets)
        return batch

    def count_tokens(self, row: Row, image_tokens: int) -> int:
        """Length of a row in tokens, given how many tokens its pictures take in place of their marks."""
        tokenizer = tokenizer_of(self.processor)
        text = render(self.processor, row, self.segments).text
        ids = tokenizer(text, add_special_tokens=adds_special_tokens(tokenizer, text))["input_ids"]
        return len(ids) + image_tokens - len(row.images)

    def _targets(self, row: Row, rendered: Rendered) -> TokenTargets:
        tokenizer = tokenizer_of(self.processor)
        found = token_targets(
            tokenizer, rendered, row=row, segments=self.segments, end_ids=self.end_ids, tags=self.tags
        )
        if found.fault is not None and self.require_segments:
            raise found.fault.at(record=row.id)
        return found

    def _encode(self, rows: Sequence[Row], rendered: Sequence[Rendered]) -> Batch:
        texts = [item.text for item in rendered]
        tokenizer = tokenizer_of(self.processor)
        if len({adds_special_tokens(tokenizer, text) for text in texts}) > 1:
            raise ConfigError("some rows of the batch start with the tokenizer's bos_token and some do not")
        options: dict[str, Any] = {
            "padding": True,
            "padding_side": "right",
            "return_tensors": "pt",
            "add_special_tokens": adds_special_tokens(tokenizer, texts[0]),
        }
        if self.pad_to_multiple_of:
            options["pad_to_multiple_of"] = self.pad_to_multiple_of
        pictures = [[open_image(image, record=row.id) for image in row.images] for row in rows]
        for row, images in zip(rows, pictures, strict=True):
            refuse_sizes(self.processor, [image.size for image in images], record=row.id)
        if any(pictures):
            options["images"] = arranged(self.processor, pictures)
        return dict(self.processor(text=texts, **options))  # type: ignore[return-value]

    def _place(self, batch: Batch, rows: Sequence[Row], targets: Sequence[TokenTargets]) -> None:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        labels = torch.full_like(ids, IGNORED)
        segment_ids = torch.zeros_like(ids)
        for b, (row, target) in enumerate(zip(rows, targets, strict=True)):
            length = int(mask[b].sum())
            if self.max_length is not None and length > self.max_length:
                raise DataError(
                    f"the row has {length} tokens, more than max_length {self.max_length}",
                    record=row.id,
                    remedy="raise max_length (None: no limit), use smaller pictures, or set scale_on_overflow to skip "
                    'with scale_check="all", which looks at all rows before the first step',
                )
            start = length - len(target.tail)
            # Guards the whole method: what is trained must be what the processor made of the same text.
            if start < 0 or ids[b, start:length].tolist() != target.tail:
                raise ConfigError(
                    f"record {row.id}: the processor's ids of the response differ from the tokenizer's; "
                    "this family's processor rewrites text behind the pictures and is not supported"
                )
            stop = start + len(target.segments)
            labels[b, start:stop] = ids[b, start:stop]
            segment_ids[b, start:stop] = torch.tensor(target.segments, dtype=ids.dtype)
        batch["shift_labels"] = _shifted(labels, IGNORED)
        batch["shift_segment_ids"] = _shifted(segment_ids, 0)
        if self.with_labels:
            batch["labels"] = labels


def _shifted(values: torch.Tensor, filler: int) -> torch.Tensor:
    """Position t gets the value of position t + 1."""
    last = torch.full_like(values[:, :1], filler)
    return torch.cat([values[:, 1:], last], dim=1)
