"""Qwen3-VL: as Qwen2.5-VL, with features of several vision layers added to text layers (deepstack)."""

from typing import TYPE_CHECKING, Any

from balanced_thinking.demo.presets.families import qwen2_5_vl
from balanced_thinking.demo.presets.families.qwen2_5_vl import CHAT_TEMPLATE, make_tokenizer

if TYPE_CHECKING:
    from transformers import Qwen3VLConfig, Qwen3VLProcessor

    from balanced_thinking.demo.presets.families import Size

__all__ = ["HUB_NAMES", "make_config", "make_processor", "make_tokenizer", "prepare"]

HUB_NAMES = r"qwen3[._-]?vl"


def make_processor(tokenizer: Any, size: "Size") -> "Qwen3VLProcessor":
    """Pictures of one token to ``longest`` x ``longest`` tokens keep their size."""
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    settings = qwen2_5_vl.pictures(size)
    return Qwen3VLProcessor(
        Qwen2VLImageProcessor(**settings), tokenizer, Qwen3VLVideoProcessor(**settings), chat_template=CHAT_TEMPLATE
    )


def make_config(tokenizer: Any, size: "Size") -> "Qwen3VLConfig":
    """Features of the tower's first layer go into the first text layer."""
    from transformers import Qwen3VLConfig

    half = size.head_dim // 2
    part = half * 5 // 16
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [half - 2 * part, part, part]}
    text = {**size.text, **size.common, **qwen2_5_vl.ends(tokenizer), "rope_parameters": rope}
    return Qwen3VLConfig(
        text_config={**text, "head_dim": size.head_dim},
        vision_config={
            **qwen2_5_vl.tower(size),
            "num_position_embeddings": (2 * size.longest) ** 2,
            "deepstack_visual_indexes": [0],
        },
        **qwen2_5_vl.ids(tokenizer),
        **size.common,
    )


def prepare(model: Any) -> None:
    """Deepstack features start at zero: untrained ones would be noise in every visual token."""
    import torch

    for merger in model.model.visual.deepstack_merger_list:
        torch.nn.init.zeros_(merger.linear_fc2.weight)
        torch.nn.init.zeros_(merger.linear_fc2.bias)
