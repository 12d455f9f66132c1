"""What a user may ask of every format, and what a reader tells besides examples."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from balanced_thinking.core.segments import THINK_ANSWER, SegmentSpec, check_specs
from balanced_thinking.data.formats.response import ANSWER_FROM
from balanced_thinking.errors import ConfigError

ON_MISSING = ("error", "skip", "train")


@dataclass(frozen=True, slots=True)
class Options:
    """The options of ``records.load_examples``, checked.

    Raises:
        ConfigError: an unknown ``answer_from`` or ``on_missing``, columns that are not a mapping of names, or an
            ``image_root`` that is no folder.
    """

    image_root: Path | None = None
    answer_from: str | None = None
    on_missing: str = "error"
    columns: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    allow_outside: bool = False
    segments: tuple[SegmentSpec, ...] = THINK_ANSWER

    def __post_init__(self) -> None:
        for name, value, known in (
            ("answer_from", self.answer_from or "tag", ANSWER_FROM),
            ("on_missing", self.on_missing, ON_MISSING),
        ):
            if value not in known:
                raise ConfigError(f"{name} must be one of {', '.join(known)}, not {value!r}")
        if self.image_root is not None and not self.image_root.is_dir():
            raise ConfigError(f"image_root {self.image_root} is no folder; check the path")
        check_specs(self.segments)
        if self.segments != THINK_ANSWER and self.answer_from not in (None, "tag", "field"):
            last = self.segments[-1].name
            raise ConfigError(
                f"answer_from={self.answer_from}: with segments of your own it stands in the last, {last}"
            )
        pairs = self.columns.items() if isinstance(self.columns, Mapping) else [(None, None)]
        if not all(isinstance(name, str) for pair in pairs for name in pair):
            raise ConfigError(f"columns must map our names to the file's, not {self.columns!r}")


SYSTEM = "a system turn was left out (set a system prompt for the whole run instead)"
# Keys of messages that no format reads, and sizes inside image parts: counted where they are left out.
UNREAD_KEYS = ("reasoning_content", "tool_calls")
UNREAD_SIZES = ("max_pixels", "min_pixels", "resized_height", "resized_width")


class Notes(Counter[str]):
    """What a reader changed or left out of a record, counted over the data set.

    Attributes:
        pictured: Records with pictures.
        unread_pictures: Of each field that is not read, in how many records without pictures it holds pictures, less
            those in which it holds something else.
    """

    def __init__(self, *counts: Any) -> None:
        super().__init__(*counts)
        self.pictured = 0
        self.unread_pictures = Counter[str]()
