"""Twins of large models: the same transformers classes and processors, random weights, 0.2 M parameters, in a second.

A dry run trains one on a CPU to find out whether a recipe, its data and its chat template work before a GPU is paid
for; the tests go through all families with them. What differs between families stands here: special tokens, chat
templates, how a picture becomes tokens. What it leaves out: knowledge (``pretrain`` makes bases that have some).
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from balanced_thinking.demo.presets.tokenizer import CHAT_TEMPLATE, SPECIAL, TAGS
from balanced_thinking.errors import ConfigError

WIDTH = 64
TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
}


def _parts(image: str) -> str:
    return (
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}" + image + "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
        "{% endfor %}{% endif %}"
    )


# As the families' own: Mistral's instructions, Gemma's turns, ChatML, Idefics3's speakers.
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}[INST] "
    + _parts("<image>\n")
    + " [/INST]{% elif message['role'] == 'system' %}"
    + _parts("")
    + "\n{% else %}"
    + _parts("")
    + "{{ eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    + _parts("<start_of_image>")
    + "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
IDEFICS = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}: "
    + _parts("<image>")
    + "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant: {% endif %}"
)


def tokenizer(special: list[str], *, eos: str, pad: str, bos: str | None = None, **named: str) -> Any:
    """A token a byte, and the special ones; the tags are single tokens that text decoding keeps."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trained = Tokenizer(models.BPE({piece: number for number, piece in enumerate(alphabet)}, []))
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trained.add_special_tokens(special)
    if bos is not None:
        ids = [(bos, trained.token_to_id(bos))]
        trained.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=ids)
    extra = {"extra_special_tokens": named} if named else {}
    made = PreTrainedTokenizerFast(tokenizer_object=trained, eos_token=eos, pad_token=pad, bos_token=bos, **extra)
    made.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return made


def _save(folder: str | Path, model: Any, processor: Any, seed: int) -> Path:
    import torch

    tokens = processor.tokenizer
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.1)
    model.eval()
    model.generation_config.eos_token_id = tokens.eos_token_id
    model.generation_config.pad_token_id = tokens.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Path(folder)


def _text(tokens: Any, **changes: Any) -> dict[str, Any]:
    ends = {
        "bos_token_id": tokens.bos_token_id,
        "eos_token_id": tokens.eos_token_id,
        "pad_token_id": tokens.pad_token_id,
    }
    return {**TEXT, "vocab_size": -(-len(tokens) // 64) * 64, **ends, **changes}


def llava_next(folder: str | Path, seed: int = 0) -> Path:
    """LLaVA-NeXT over Mistral: CLIP, pictures cut into tiles by their shape (anyres), rows ended by a newline token."""
    from transformers import (
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessor,
        LlavaNextProcessor,
    )

    tokens = tokenizer(["<s>", "</s>", "<pad>", "<image>"], eos="</s>", pad="<pad>", bos="<s>")
    grid = [[16, 32], [32, 16], [32, 32]]
    pictures = LlavaNextImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, image_grid_pinpoints=grid
    )
    processor = LlavaNextProcessor(
        pictures, tokens, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=MISTRAL,
    )  # fmt: skip
    vision = {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
              "num_attention_heads": 2, "image_size": 16, "patch_size": 8, "projection_dim": 32}  # fmt: skip
    config = LlavaNextConfig(
        text_config={"model_type": "mistral", "sliding_window": None, **_text(tokens)},
        vision_config=vision,
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=grid,
        vision_feature_layer=-2,
    )
    return _save(folder, LlavaNextForConditionalGeneration(config), processor, seed)


def gemma3(folder: str | Path, seed: int = 0) -> Path:
    """Gemma 3: SigLIP pooled to a fixed number of tokens, token types, sliding windows."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3ImageProcessor, Gemma3Processor

    named = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    special = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", *named.values()]
    tokens = tokenizer(special, eos="<end_of_turn>", pad="<pad>", bos="<bos>", **named)
    pictures = Gemma3ImageProcessor(size={"height": 16, "width": 16})
    processor = Gemma3Processor(pictures, tokens, chat_template=GEMMA, image_seq_length=4)
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 16, "patch_size": 4}  # fmt: skip
    config = Gemma3Config(
        text_config=_text(tokens, head_dim=16, sliding_window=16, layer_types=["sliding_attention", "full_attention"]),
        vision_config=vision,
        mm_tokens_per_image=4,
        boi_token_index=tokens.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokens.convert_tokens_to_ids("<end_of_image>"),
        image_token_index=tokens.convert_tokens_to_ids("<image_soft_token>"),
    )
    return _save(folder, Gemma3ForConditionalGeneration(config), processor, seed)


def qwen2_5_vl(folder: str | Path, seed: int = 0) -> Path:
    """Qwen2.5-VL: patches merged two by two, positions in three axes, window attention in the tower."""
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLVideoProcessor,
    )

    tokens, pictures, geometry = _qwen()
    processor = Qwen2_5_VLProcessor(pictures, tokens, Qwen2VLVideoProcessor(**geometry), chat_template=CHAT_TEMPLATE)
    vision = {**_QWEN_VISION, "window_size": 16, "fullatt_block_indexes": [1]}
    config = Qwen2_5_VLConfig(
        text_config=_text(tokens, rope_parameters=_ROPE | {"mrope_section": [2, 3, 3]}),
        vision_config=vision,
        **_qwen_ids(tokens),
    )
    return _save(folder, Qwen2_5_VLForConditionalGeneration(config), processor, seed)


def qwen3_vl(folder: str | Path, seed: int = 0) -> Path:
    """Qwen3-VL: features of several vision layers added to text layers (deepstack)."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor, Qwen3VLVideoProcessor

    tokens, pictures, geometry = _qwen()
    processor = Qwen3VLProcessor(pictures, tokens, Qwen3VLVideoProcessor(**geometry), chat_template=CHAT_TEMPLATE)
    config = Qwen3VLConfig(
        text_config=_text(tokens, head_dim=16, rope_parameters=_ROPE | {"mrope_section": [4, 2, 2]}),
        vision_config={**_QWEN_VISION, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
        **_qwen_ids(tokens),
    )
    return _save(folder, Qwen3VLForConditionalGeneration(config), processor, seed)


_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_QWEN_VISION = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 4,
                "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": WIDTH}  # fmt: skip


def _qwen() -> tuple[Any, Any, dict[str, Any]]:
    from transformers import Qwen2VLImageProcessor

    size = {"shortest_edge": 8 * 8, "longest_edge": 32 * 32}
    geometry = {"size": size, "patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    tokens = tokenizer(list(SPECIAL), eos="<|im_end|>", pad="<|endoftext|>")
    return tokens, Qwen2VLImageProcessor(**geometry), geometry


def _qwen_ids(tokens: Any) -> dict[str, int]:
    names = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    return {f"{name}_token_id": tokens.convert_tokens_to_ids(f"<|{token}|>") for name, token in names.items()}


def idefics3(folder: str | Path, seed: int = 0) -> Path:
    """Idefics3, the architecture of SmolVLM: pictures split into tiles named by row and column, pixel shuffle."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3ImageProcessor, Idefics3Processor

    tiles = [f"<row_{row + 1}_col_{column + 1}>" for row in range(6) for column in range(6)]
    special = ["<|im_start|>", "<|im_end|>", "<pad>", "<global-img>", *tiles, "<image>", "<fake_token_around_image>"]
    tokens = tokenizer([*special, "<end_of_utterance>"], eos="<end_of_utterance>", pad="<pad>")
    pictures = Idefics3ImageProcessor(size={"longest_edge": 32}, max_image_size={"longest_edge": 16})
    processor = Idefics3Processor(pictures, tokens, image_seq_len=4, chat_template=IDEFICS)
    config = Idefics3Config(
        text_config={"model_type": "llama", **_text(processor.tokenizer)},
        vision_config={"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
                       "image_size": 16, "patch_size": 4},
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )  # fmt: skip
    return _save(folder, Idefics3ForConditionalGeneration(config), processor, seed)


FAMILIES: dict[str, Callable[..., Path]] = {
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "llava_next": llava_next,
    "gemma3": gemma3,
    "idefics3": idefics3,
}
_NAMES = {
    "qwen2_5_vl": r"qwen2[._-]?5[._-]?vl",
    "qwen3_vl": r"qwen3[._-]?vl",
    "llava_next": r"llava[._-]?(v1[._]6|next)",
    "gemma3": r"gemma[._-]?3",
    "idefics3": r"smolvlm|idefics3",
}


def family_of(model: str) -> str:
    """The family of a model folder (by its config.json) or hub id (by its name).

    Raises:
        ConfigError: none that has a twin.
    """
    import json

    config = Path(model) / "config.json"
    if config.is_file():
        known = json.loads(config.read_text(encoding="utf-8")).get("model_type", "")
        family = "idefics3" if known == "smolvlm" else known
    else:
        family = next((name for name, spelt in _NAMES.items() if re.search(spelt, model, re.IGNORECASE)), "")
    if family not in FAMILIES:
        raise ConfigError(f"{model} is of no family that has a twin; there are {', '.join(FAMILIES)}")
    return family
