"""Qwen2.5-VL: patches merged two by two, any resolution, positions in three axes, window attention in the tower."""

from typing import TYPE_CHECKING, Any

from balanced_thinking.demo.presets.tokenizer import add_tags

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLProcessor, Qwen2Tokenizer

    from balanced_thinking.demo.presets.families import Size

HUB_NAMES = r"qwen2[._-]?5[._-]?vl"
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
END, PAD = "<|im_end|>", "<|endoftext|>"
MERGE = 2
# Each message in ChatML, pictures and videos as one placeholder that the processor repeats; no default system prompt.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> "Qwen2Tokenizer":
    """The family's own class over a vocabulary."""
    from transformers import Qwen2Tokenizer

    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=merges, unk_token=None, eos_token=END, pad_token=PAD)
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    add_tags(tokenizer)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_processor(tokenizer: Any, size: "Size") -> "Qwen2_5_VLProcessor":
    """Pictures of one token to ``longest`` x ``longest`` tokens keep their size."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    settings = pictures(size)
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**settings),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**settings),
        chat_template=CHAT_TEMPLATE,
    )


def make_config(tokenizer: Any, size: "Size") -> "Qwen2_5_VLConfig":
    """Full attention in the tower's last layer, windows before it."""
    from transformers import Qwen2_5_VLConfig

    half = size.head_dim // 2
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [half // 4, half * 3 // 8, half * 3 // 8]}
    seen = {"window_size": size.vision_window, "fullatt_block_indexes": [size.vision["layers"] - 1]}
    return Qwen2_5_VLConfig(
        text_config={**size.text, **size.common, **ends(tokenizer), "rope_parameters": rope},
        vision_config={**tower(size), **seen},
        **ids(tokenizer),
        **size.common,
    )


def pictures(size: "Size") -> dict[str, Any]:
    """Settings of the image processor and the video processor."""
    pixels = {"shortest_edge": size.token**2, "longest_edge": (size.longest * size.token) ** 2}
    return {"size": pixels, "patch_size": size.token // MERGE, "merge_size": MERGE, "temporal_patch_size": 2}


def tower(size: "Size") -> dict[str, Any]:
    """What the towers of Qwen's families share."""
    return {
        "depth": size.vision["layers"],
        "hidden_size": size.vision["hidden_size"],
        "intermediate_size": size.vision["intermediate_size"],
        "num_heads": size.vision["heads"],
        "patch_size": size.token // MERGE,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "out_hidden_size": size.text["hidden_size"],
        **{name: value for name, value in size.common.items() if name == "initializer_range"},
    }


def ends(tokenizer: Any) -> dict[str, Any]:
    """Vocabulary and special ids of the text model."""
    from balanced_thinking.demo.presets.tokenizer import padded_size

    return {
        "vocab_size": padded_size(tokenizer),
        "bos_token_id": None,
        "eos_token_id": tokenizer.convert_tokens_to_ids(END),
        "pad_token_id": tokenizer.convert_tokens_to_ids(PAD),
    }


def ids(tokenizer: Any) -> dict[str, int]:
    """Special ids of the whole model."""
    named = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    own = {name: value for name, value in ends(tokenizer).items() if name != "vocab_size"}
    return own | {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>") for name, token in named.items()}
