"""A tiny but genuine Qwen2.5-VL for tests: random weights, own byte-level BPE, real processor.

Saved in the plain Hugging Face layout, about 0.2 M parameters, built in about a second. What it leaves out: knowledge
(its answers are noise) and Qwen's default system line (prompts stay short).
"""

import random
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from balanced_thinking.data.records import Example

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (40, 70, 220), "yellow": (230, 210, 40)}


def tiny_tokenizer(vocab_size: int = 512):
    """A Qwen2 tokenizer with few merges; the tags are single added tokens that text decoding keeps."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    reserved = len(SPECIAL_TOKENS) + len(TAGS)
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - reserved, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    trained.train_from_iterator(_corpus(), trainer)
    pieces = trained.get_vocab()
    merges = _merges(trained)
    tokenizer = Qwen2Tokenizer(
        vocab=pieces, merges=merges, unk_token=None, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_processor(tokenizer=None):
    """The real Qwen2.5-VL processor: patches of 4, merged 2 by 2, so a 16x16 picture is 4 tokens."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    geometry = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    pixels = {"shortest_edge": 8 * 8, "longest_edge": 32 * 32}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=pixels, **geometry),
        tokenizer=tokenizer or tiny_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(size=pixels, **geometry),
        chat_template=CHAT_TEMPLATE,
    )


def tiny_config(tokenizer):
    """Two text layers of width 64, two vision layers of width 32, tied embeddings."""
    from transformers import Qwen2_5_VLConfig

    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    ends = {"bos_token_id": None, "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"]}
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
            "tie_word_embeddings": True,
            **ends,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 16,
            "fullatt_block_indexes": [1],
            "out_hidden_size": 64,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
        **ends,
    )


def tiny_qwen2_5_vl(folder: str | Path, seed: int = 0) -> Path:
    """Builds the model and its processor, saves both to `folder` (float32) and returns the folder."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    folder = Path(folder)
    processor = tiny_processor()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(tiny_config(processor.tokenizer))
        # The default scale of 0.02 gives almost uniform logits; wider weights make greedy paths clear and varied.
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.1)
    model.eval()
    model.generation_config.eos_token_id = [model.config.text_config.eos_token_id, processor.tokenizer.pad_token_id]
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def tiny_examples(count: int = 8, seed: int = 0, think_words: int = 20) -> "list[Example]":
    """Questions of all three kinds about pictures of one or two colours, with traces."""
    from PIL import Image

    from balanced_thinking.data.records import Example

    dice = random.Random(seed)
    names = list(COLOURS)
    examples = []
    for i in range(count):
        colour, width = dice.choice(names), dice.choice([16, 24, 32])
        picture = Image.new("RGB", (width, 16), COLOURS[colour])
        think = " ".join(dice.choice(_WORDS) for _ in range(think_words + dice.randrange(think_words + 1)))
        question, choices, answer, kind = [
            ("Which colour is it?", tuple(names), "ABCD"[names.index(colour)], "choice"),
            ("How many patches of eight points are there side by side?", None, str(width // 8), "number"),
            ("Name the colour.", None, colour, "text"),
        ][i % 3]
        examples.append(
            Example(f"tiny-{i:04d}", f"tiny/{kind}", (picture,), question, choices, think, answer, kind)  # type: ignore[arg-type]
        )
    return examples


_SENTENCE = (
    "the picture shows one colour let me look again wait it seems red green blue yellow so count patches from left "
    "to right there are two three four and nothing else hence answer is"
)
_WORDS = _SENTENCE.split()


def _corpus() -> list[str]:
    dice = random.Random(0)
    return [" ".join(dice.choice(_WORDS) for _ in range(30)) for _ in range(50)] + [
        "user\nassistant\nsystem\nYou are a helpful assistant.\nWhich colour is it?\nA. red\nB. green\nHow many patches"
    ] * 5


def _merges(tokenizer) -> list[tuple[str, str]]:
    import json

    return [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
