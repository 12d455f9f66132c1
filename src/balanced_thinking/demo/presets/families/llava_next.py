"""LLaVA-NeXT over Mistral: CLIP, pictures cut into tiles by their shape (anyres), rows ended by a newline token."""

from typing import TYPE_CHECKING, Any

from balanced_thinking.demo.presets.tokenizer import fast_tokenizer, message_parts, special_ids

if TYPE_CHECKING:
    from transformers import LlavaNextConfig, LlavaNextProcessor

    from balanced_thinking.demo.presets.families import Size

HUB_NAMES = r"llava[._-]?(v1[._]6|next)"
# Mistral's instructions.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}[INST] "
    + message_parts("<image>\n")
    + " [/INST]{% elif message['role'] == 'system' %}"
    + message_parts("")
    + "\n{% else %}"
    + message_parts("")
    + "{{ eos_token }}{% endif %}{% endfor %}"
)


def make_tokenizer(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Any:
    """Mistral's ends of text around a byte-level vocabulary."""
    special = ["<s>", "</s>", "<pad>", "<image>"]
    return fast_tokenizer(vocabulary, merges, special, eos="</s>", pad="<pad>", bos="<s>")


def make_processor(tokenizer: Any, size: "Size") -> "LlavaNextProcessor":
    """Every picture as one tile seen whole, and the same cut into tiles."""
    from transformers import LlavaNextImageProcessor, LlavaNextProcessor

    side = size.side
    pictures = LlavaNextImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}, image_grid_pinpoints=_grid(size)
    )
    return LlavaNextProcessor(
        pictures,
        tokenizer,
        patch_size=size.token,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def make_config(tokenizer: Any, size: "Size") -> "LlavaNextConfig":
    """The last vision layer but one is taken, as in the released models; so there is one more of them."""
    from transformers import LlavaNextConfig

    vision = {
        "model_type": "clip_vision_model",
        **size.square_tower(size.token),
        "num_hidden_layers": size.vision["layers"] + 1,
        "projection_dim": size.vision["hidden_size"],
    }
    text = {"model_type": "mistral", "sliding_window": None, **size.text, **size.common, **special_ids(tokenizer)}
    return LlavaNextConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=_grid(size),
        vision_feature_layer=-2,
        **size.common,
    )


def token_cells(side: int) -> list[int | None]:
    """The cell that each visual token of a picture of one tile shows: the picture whole, then rows and newlines."""
    rows = [[*range(row * side, (row + 1) * side), None] for row in range(side)]
    return [*range(side * side), *(cell for row in rows for cell in row)]


def _grid(size: "Size") -> list[list[int]]:
    """Every arrangement of tiles; one tile alone only where there are no more."""
    most = range(1, size.tiles + 1)
    return [[rows * size.side, columns * size.side] for rows in most for columns in most if rows * columns > 1] or [
        [size.side, size.side]
    ]
