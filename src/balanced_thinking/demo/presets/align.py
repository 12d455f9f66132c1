"""The tower of a tiny preset learns to speak in words before the text model learns to read them.

The visual token of a cell is trained to be the sum of two word embeddings, the icon's name and its place: what CLIP
gives a large model, in a minute. From there a text model finds icons by name within some hundred steps; from random
towers it did not in thousands. What it leaves out: the text model and all training after (``pretrain``).
"""

import random
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn import functional

from balanced_thinking.evaluation.benchmarks.icons_pool import seen_icons
from balanced_thinking.evaluation.benchmarks.icons_scene import CELLS, POSITIONS, Cells, draw

ROWS, LEARNING_RATE, WARMUP = 32, 2e-3, 20
SHARPNESS = 10.0  # logit of a perfect match


def align(source: Path, folder: Path, *, steps: int, seed: int = 0, progress: bool = True) -> None:
    """Write the model of ``source`` to ``folder`` with its tower aligned to its word embeddings."""
    from tqdm.auto import trange
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model, processor = AutoModelForImageTextToText.from_pretrained(source), AutoProcessor.from_pretrained(source)
    tower, rng = model.model.visual, random.Random(f"align/{seed}")
    optimizer = torch.optim.AdamW(tower.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP, (1 - step / steps) / 0.5)
    )
    icons = [icon for group in seen_icons().values() for icon in group]
    names, places = (_embeddings(model, processor, words) for words in ([i.name for i in icons], POSITIONS))
    with trange(steps, desc="aligning", disable=not progress) as bar:
        for _ in bar:
            grids = [tuple(rng.choices(icons, k=CELLS)) for _ in range(ROWS)]
            name_ids = torch.tensor([icons.index(icon) for grid in grids for icon in grid])
            place_ids = torch.arange(CELLS).repeat(ROWS)
            tokens = _see(tower, processor, grids, rng)
            loss = alignment_loss(tokens, names, name_ids, places, place_ids)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            bar.set_postfix(loss=f"{loss.item():.2f}")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def alignment_loss(
    tokens: torch.Tensor, names: torch.Tensor, name_ids: torch.Tensor, places: torch.Tensor, place_ids: torch.Tensor
) -> torch.Tensor:
    """-log p(name) - 0.3 log p(place) + |token - name - place|^2 / mean |name|^2, mean over the visual tokens.

    p is a softmax over the scalar products with the words' embeddings.

    Args:
        tokens: [n, width], what the tower gives for n cells.
        names: [words, width], the embeddings of the names.
        name_ids: [n], which of them a cell holds.
        places: [9, width], the embeddings of the words for places.
        place_ids: [n], where a cell stands.
    """
    size = names.square().sum(1).mean()
    by_name = functional.cross_entropy(tokens @ names.T / size * SHARPNESS, name_ids)
    by_place = functional.cross_entropy(tokens @ places.T / size * SHARPNESS, place_ids)
    distance = (tokens - names[name_ids] - places[place_ids]).square().sum(1).mean() / size
    return by_name + 0.3 * by_place + distance


def _see(tower: Any, processor: Any, grids: list[Cells], rng: random.Random) -> torch.Tensor:
    """The visual tokens of pictures of grids, [grids * cells, width]."""
    pictures = [Image.open(BytesIO(draw(grid, rng))) for grid in grids]
    inputs = processor.image_processor(images=pictures, return_tensors="pt")
    with torch.autocast("cpu", torch.bfloat16):
        return tower(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output.float()


def _embeddings(model: Any, processor: Any, words: Any) -> torch.Tensor:
    """The embeddings of words as they stand inside a sentence, [words, width]."""
    ids = [processor.tokenizer(f" {word}")["input_ids"] for word in words]
    assert all(len(each) == 1 for each in ids), "the tokenizer keeps each name and place whole"
    return model.get_input_embeddings().weight.detach()[torch.tensor(ids)[:, 0]]
