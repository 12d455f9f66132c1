"""The embedded models: transformers' own classes of a family in about 3 M parameters, with its real processor.

A grid of `icons` (84 x 84) becomes nine visual tokens, one a cell (LLaVA-NeXT's tiles show it twice).
What it leaves out: what differs between families (``families``), training (``pretrain``).
"""

from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from balanced_thinking.data.example import Example
from balanced_thinking.data.prompts import render_question
from balanced_thinking.demo.presets.families import FAMILIES, Size
from balanced_thinking.demo.presets.tokenizer import train_vocabulary
from balanced_thinking.evaluation.benchmarks.icons import make_example
from balanced_thinking.evaluation.benchmarks.icons_pool import seen_icons
from balanced_thinking.evaluation.benchmarks.icons_pretraining import caption_example, fact_example
from balanced_thinking.evaluation.benchmarks.icons_scene import POSITIONS

VOCAB_SIZE = 1268  # before special tokens; the texts give less
INIT = 0.06  # about 1 / sqrt(width); with the usual 0.02 sight sets in far later at this width
ORIGIN = (
    "Pre-trained from random weights on facts, dense captions and direct questions about 3 x 3 grids of icons, it\n"
    "knows nothing else: no language beyond those templates, no pictures beyond those grids."
)
SIZE = Size(
    text={
        "hidden_size": 192,
        "intermediate_size": 448,
        "num_hidden_layers": 5,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
    },
    vision={"hidden_size": 128, "intermediate_size": 256, "layers": 2, "heads": 4},
    token=28,
    tile=3,
    tiles=1,
    longest=8,
    vision_window=112,
    sliding_window=512,
    common={"tie_word_embeddings": True, "initializer_range": INIT},
)


def make(family: str, name: str, folder: Path, *, work: Path, progress: bool = True) -> None:
    """The pre-trained base in ``folder``; ``work`` keeps checkpoints, so that a stopped build goes on."""
    from balanced_thinking.demo.presets.pretrain import RECIPE, make_base

    build = partial(build_untrained, family)
    make_base(name, build, folder, recipe=RECIPE, origin=ORIGIN, work=work, progress=progress)


def build_untrained(family: str, folder: str | Path, seed: int = 0) -> None:
    """Write random weights, processor and tokenizer in the plain Hugging Face layout (float32)."""
    import torch
    from transformers import AutoModelForImageTextToText

    module = FAMILIES[family]
    tokenizer = module.make_tokenizer(*_vocabulary())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(module.make_config(tokenizer, SIZE))
    _attend_to_alike(model)
    if hasattr(module, "prepare"):
        module.prepare(model)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    module.make_processor(tokenizer, SIZE).save_pretrained(folder)


@cache
def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    return train_vocabulary(template_texts(), size=VOCAB_SIZE)


def _attend_to_alike(model: Any) -> None:
    """Give the query heads of each layer's first group the weights of their key head.

    Such heads look at tokens that resemble their own from the first step on, which is what matching a name to a picture
    starts from (mimetic initialisation, Trockman and Kolter 2023, https://arxiv.org/abs/2305.09828).
    """
    import torch

    with torch.no_grad():
        for layer in model.get_decoder().layers:
            attention = layer.self_attn
            queries = attention.q_proj.weight.unflatten(0, (-1, attention.head_dim))
            queries[: attention.num_key_value_groups] = attention.k_proj.weight[: attention.head_dim]


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
