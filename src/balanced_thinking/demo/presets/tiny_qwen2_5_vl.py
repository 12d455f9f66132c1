"""`tiny-qwen2_5_vl`: transformers' own Qwen2.5-VL in 2.8 M parameters, with its real processor and an own tokenizer.

A grid of `icons` (84 x 84) becomes nine visual tokens, one a cell; a single icon (28 x 28) one.
What it leaves out: training (``pretrain``).
"""

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from balanced_thinking.data.example import Example
from balanced_thinking.data.prompts import render_question
from balanced_thinking.demo.presets.tokenizer import CHAT_TEMPLATE, SPECIAL, train_tokenizer
from balanced_thinking.evaluation.benchmarks.icons import make_example
from balanced_thinking.evaluation.benchmarks.icons_pool import seen_icons
from balanced_thinking.evaluation.benchmarks.icons_pretraining import caption_example, fact_example
from balanced_thinking.evaluation.benchmarks.icons_scene import POSITIONS
from balanced_thinking.runinfo import build_once

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen2_5_VLConfig, Qwen2_5_VLProcessor

FILES = (
    "README.md",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
VOCAB_SIZE = 1280
INIT = 0.06  # about 1 / sqrt(width); with the usual 0.02 sight sets in far later at this width
PATCH = 14
TEXT = {
    "hidden_size": 192,
    "intermediate_size": 448,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]},
    "tie_word_embeddings": True,
    "initializer_range": INIT,
}
VISION = {
    "depth": 2,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_heads": 4,
    "patch_size": PATCH,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [1],
    "out_hidden_size": TEXT["hidden_size"],
    "initializer_range": INIT,
}


def make(folder: Path, *, work: Path, progress: bool = True) -> None:
    """The pre-trained base in ``folder``; ``work`` keeps checkpoints, so that a stopped build goes on."""
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    from balanced_thinking.demo.presets.card import measure, write_card
    from balanced_thinking.demo.presets.pretrain import RECIPE, pretrain

    untrained = build_once(work / "untrained", build_untrained)
    run = pretrain(untrained, work / "run", progress=progress)
    write_card(
        run,
        "tiny-qwen2_5_vl",
        measure(run, work / "evaluation"),
        millions=AutoModelForImageTextToText.from_pretrained(run).num_parameters() / 1e6,
        vocabulary=len(AutoTokenizer.from_pretrained(run)),
        steps=RECIPE.steps,
        rows=RECIPE.rows,
        seed=0,
        learning_rate=RECIPE.learning_rate,
        seconds=json.loads((run / "clock.json").read_text(encoding="utf-8"))["cpu_seconds"],
    )
    for name in FILES:
        shutil.copyfile(run / name, folder / name)
    shutil.rmtree(work)


def build_untrained(folder: str | Path, seed: int = 0) -> None:
    """Write random weights, processor and tokenizer in the plain Hugging Face layout (float32)."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    folder = Path(folder)
    processor = build_processor()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(build_config(processor.tokenizer))
    _attend_to_alike(model)
    model.generation_config.eos_token_id = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _attend_to_alike(model: "Qwen2_5_VLForConditionalGeneration") -> None:
    """Give the query heads of each layer's first group the weights of their key head.

    Such heads look at tokens that resemble their own from the first step on, which is what matching a name to a picture
    starts from (mimetic initialisation, Trockman and Kolter 2023, https://arxiv.org/abs/2305.09828).
    """
    import torch

    with torch.no_grad():
        for layer in model.model.language_model.layers:
            attention = layer.self_attn
            queries = attention.q_proj.weight.unflatten(0, (-1, attention.head_dim))
            queries[: attention.num_key_value_groups] = attention.k_proj.weight[: attention.head_dim]


def build_processor() -> "Qwen2_5_VLProcessor":
    """The family's processor with a tokenizer trained on the texts of `icons`."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    geometry = {"patch_size": PATCH, "merge_size": 2, "temporal_patch_size": 2}
    side = 2 * PATCH
    pixels = {"shortest_edge": side * side, "longest_edge": (8 * side) ** 2}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=pixels, **geometry),
        tokenizer=train_tokenizer(template_texts(), vocab_size=VOCAB_SIZE),
        video_processor=Qwen2VLVideoProcessor(size=pixels, **geometry),
        chat_template=CHAT_TEMPLATE,
    )


def build_config(tokenizer: "PreTrainedTokenizerBase") -> "Qwen2_5_VLConfig":
    """The configuration for a tokenizer; the vocabulary is padded to a multiple of 64."""
    from transformers import Qwen2_5_VLConfig

    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    ends = {"bos_token_id": None, "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"]}
    return Qwen2_5_VLConfig(
        text_config={**TEXT, **ends, "vocab_size": -(-len(tokenizer) // 64) * 64},
        vision_config=VISION,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
        initializer_range=INIT,
        **ends,
    )


def template_texts() -> Iterator[str]:
    """What the tokenizer learns from: questions, traces, captions, and every answer word with and without a space."""
    words = [icon.name for icons in seen_icons().values() for icon in icons]
    words += [*seen_icons(), "second", "third", *POSITIONS, "user\n", "assistant\n", "system\n"]
    for word in words:
        yield from [word] * 40
        yield from [f" {word}"] * 20
    makers: tuple[tuple[Callable[[int], Example], int], ...] = (
        (partial(make_example, "icons", "train"), 4000),
        (fact_example, 500),
        (caption_example, 500),
    )
    for make, count in makers:
        for number in range(count):
            example = make(number)
            yield render_question(example.question, example.choices)
            yield example.think or example.answer
