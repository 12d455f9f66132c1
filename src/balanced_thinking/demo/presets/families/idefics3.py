"""Idefics3, the architecture of SmolVLM: pictures split into tiles named by row and column, pixel shuffle."""

from typing import TYPE_CHECKING, Any

from balanced_thinking.demo.presets.tokenizer import fast_tokenizer, message_parts, special_ids

if TYPE_CHECKING:
    from transformers import Idefics3Config, Idefics3Processor

    from balanced_thinking.demo.presets.families import Size

HUB_NAMES = r"smolvlm|idefics3"
_SHUFFLE = 2
TILES = tuple(f"<row_{row + 1}_col_{column + 1}>" for row in range(6) for column in range(6))
CHAT_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}: "
    + message_parts("<image>")
    + "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant: {% endif %}"
)


def make_tokenizer(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Any:
    """SmolVLM's marks around a byte-level vocabulary."""
    special = ["<|im_start|>", "<|im_end|>", "<pad>", "<global-img>", *TILES, "<image>", "<fake_token_around_image>"]
    end = "<end_of_utterance>"
    return fast_tokenizer(vocabulary, merges, [*special, end], eos=end, pad="<pad>")


def make_processor(tokenizer: Any, size: "Size") -> "Idefics3Processor":
    """Larger pictures are split into tiles, with the whole beside them."""
    from transformers import Idefics3ImageProcessor, Idefics3Processor

    pictures = Idefics3ImageProcessor(
        size={"longest_edge": size.tiles * size.side}, max_image_size={"longest_edge": size.side}
    )
    return Idefics3Processor(pictures, tokenizer, image_seq_len=size.tile**2, chat_template=CHAT_TEMPLATE)


def make_config(tokenizer: Any, size: "Size") -> "Idefics3Config":
    """Patches of half a token's side, shuffled two by two into one token."""
    from transformers import Idefics3Config

    return Idefics3Config(
        text_config={"model_type": "llama", **size.text, **size.common, **special_ids(tokenizer)},
        vision_config=size.square_tower(size.token // _SHUFFLE),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=_SHUFFLE,
        **size.common,
    )
