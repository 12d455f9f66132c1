"""The families of models that the presets are built in: one module each, and one line in ``FAMILIES``.

A module holds all that is special to building a family small: its special tokens and chat template, how a picture
becomes tokens, its configuration. It is built in two sizes, as a twin for tests and dry runs (``twins``) and as an
embedded model that is pre-trained (``tiny``). What is special to *using* a family stands in ``data.families``.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from balanced_thinking.demo.presets.families import gemma3, idefics3, llava_next, qwen2_5_vl, qwen3_vl
from balanced_thinking.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Size:
    """How large a model is built, in terms that all families share.

    Attributes:
        text: ``hidden_size``, ``num_hidden_layers`` and the like, as text configurations name them.
        vision: The same of the tower: hidden_size, intermediate_size, layers, heads.
        token: Pixels along the side of what becomes one visual token.
        tile: Visual tokens along the side of the square that a family with a fixed resolution sees at once.
        tiles: Squares along the longer side of a picture, for families that cut it into several.
        longest: Visual tokens along the side of the largest picture, for families of any resolution.
        vision_window: Pixels along the side of an attention window of the tower.
        sliding_window: Tokens that a sliding layer of the text model sees.
        common: What goes into the text, the vision and the whole configuration alike.
    """

    text: Mapping[str, Any]
    vision: Mapping[str, int]
    token: int
    tile: int
    tiles: int
    longest: int
    vision_window: int
    sliding_window: int
    common: Mapping[str, Any] = field(default_factory=dict)

    @property
    def head_dim(self) -> int:
        """Width of a text attention head."""
        return int(self.text["hidden_size"]) // int(self.text["num_attention_heads"])

    @property
    def side(self) -> int:
        """Pixels along the side of a tile."""
        return self.token * self.tile

    def square_tower(self, patch: int) -> dict[str, int]:
        """The configuration of a tower that sees one square tile in patches of ``patch`` pixels (CLIP's, SigLIP's)."""
        return {
            "hidden_size": self.vision["hidden_size"],
            "intermediate_size": self.vision["intermediate_size"],
            "num_hidden_layers": self.vision["layers"],
            "num_attention_heads": self.vision["heads"],
            "image_size": self.side,
            "patch_size": patch,
        }


class Family(Protocol):
    """What a module in this folder offers to be a family.

    Two more functions may be there: ``prepare(model)``, through which the random weights of an embedded model go before
    training, and ``token_cells(side)``, which cell of a picture of side x side cells each of its visual tokens shows
    (None: no cell), where they are not simply in order.
    """

    HUB_NAMES: str  # regular expression: how hub ids of the family are spelt

    def make_tokenizer(self, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Any:
        """A byte-level BPE tokenizer with the family's special tokens, and the tags."""

    def make_processor(self, tokenizer: Any, size: Size) -> Any:
        """The family's own processor, with its chat template."""

    def make_config(self, tokenizer: Any, size: Size) -> Any:
        """The family's own configuration."""


FAMILIES: MappingProxyType[str, Family] = MappingProxyType(
    {
        "qwen2_5_vl": qwen2_5_vl,
        "qwen3_vl": qwen3_vl,
        "llava_next": llava_next,
        "gemma3": gemma3,
        "idefics3": idefics3,
    }
)
_SAME_ARCHITECTURE = {"smolvlm": "idefics3"}
# What the name of a family is followed by where another architecture is meant.
_OTHERS: Mapping[str, str] = {
    "qwen3_vl": r".*[._-]a\d+b",  # mixtures of experts: 30B-A3B, 235B-A22B
    "llava_next": r"[._-]?(video|interleave)",
    "gemma3": r"n|[._-]?(1b|270m)",  # Gemma 3n; text alone
}


def family_of(model: str) -> str:
    """The family of a model folder (by its config.json) or hub id (by its name).

    Raises:
        ConfigError: none that has a twin.
    """
    config = Path(model) / "config.json"
    if config.is_file():
        known = json.loads(config.read_text(encoding="utf-8")).get("model_type", "")
        family = _SAME_ARCHITECTURE.get(known, known)
    else:
        family = next((family for family in FAMILIES if _is_spelt(family, model.rstrip("/").rsplit("/", 1)[-1])), "")
    if family not in FAMILIES:
        raise ConfigError(f"{model} is of no family that has a twin; there are {', '.join(FAMILIES)}")
    return family


def _is_spelt(family: str, name: str) -> bool:
    """Whether a hub id's own part names the family, as a word of its own and not another one that begins like it."""
    found = re.search(rf"(?<![a-z0-9])({FAMILIES[family].HUB_NAMES})(?P<rest>.*)", name, re.IGNORECASE)
    others = _OTHERS.get(family)
    return found is not None and not (others and re.match(others, found["rest"], re.IGNORECASE))
