"""Gemma 3: SigLIP pooled to a fixed number of tokens, token types, sliding windows."""

from typing import TYPE_CHECKING, Any

from balanced_thinking.demo.presets.tokenizer import fast_tokenizer, message_parts, special_ids

if TYPE_CHECKING:
    from transformers import Gemma3Config, Gemma3Processor

    from balanced_thinking.demo.presets.families import Size

HUB_NAMES = r"gemma[._-]?3"
_MARKS = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    + message_parts("<start_of_image>")
    + "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def make_tokenizer(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Any:
    """Gemma's turns around a byte-level vocabulary."""
    special = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", *_MARKS.values()]
    return fast_tokenizer(vocabulary, merges, special, eos="<end_of_turn>", pad="<pad>", bos="<bos>", **_MARKS)


def make_processor(tokenizer: Any, size: "Size") -> "Gemma3Processor":
    """Every picture in one resolution."""
    from transformers import Gemma3ImageProcessor, Gemma3Processor

    pictures = Gemma3ImageProcessor(size={"height": size.side, "width": size.side})
    return Gemma3Processor(pictures, tokenizer, chat_template=CHAT_TEMPLATE, image_seq_length=size.tile**2)


def make_config(tokenizer: Any, size: "Size") -> "Gemma3Config":
    """Patches of half a token's side, pooled two by two; full attention in the last text layer, windows before it."""
    from transformers import Gemma3Config

    layers = ["sliding_attention"] * (int(size.text["num_hidden_layers"]) - 1) + ["full_attention"]
    windows = {"head_dim": size.head_dim, "sliding_window": size.sliding_window, "layer_types": layers}
    return Gemma3Config(
        text_config={**size.text, **size.common, **special_ids(tokenizer), **windows},
        vision_config=size.square_tower(size.token // 2),
        mm_tokens_per_image=size.tile**2,
        boi_token_index=tokenizer.convert_tokens_to_ids(_MARKS["boi_token"]),
        eoi_token_index=tokenizer.convert_tokens_to_ids(_MARKS["eoi_token"]),
        image_token_index=tokenizer.convert_tokens_to_ids(_MARKS["image_token"]),
        **size.common,
    )
