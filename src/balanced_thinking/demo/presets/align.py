"""The tower of a tiny preset learns to speak in words before the text model learns to read them.

The visual token of a cell is trained to be the sum of two word embeddings, the icon's name and its place (of an icon in
a picture of its own, the name alone): what CLIP gives a large model, in a minute. From there a text model finds icons
by name within some hundred steps; from random towers it did not in thousands.
What it leaves out: the text model and all training after (``pretrain``).
"""

import random
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn import functional

from balanced_thinking.evaluation.benchmarks.icons_pool import seen_icons
from balanced_thinking.evaluation.benchmarks.icons_scene import CELLS, POSITIONS, draw, draw_icon

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
    places = torch.cat([places, torch.zeros(1, places.shape[1])])  # no place
    with trange(steps, desc="aligning", disable=not progress) as bar:
        for _ in bar:
            grids = [rng.choices(icons, k=CELLS) for _ in range(ROWS)]
            alone = rng.choices(icons, k=2 * ROWS)
            pictures = [*(draw(grid, rng) for grid in grids), *(draw_icon(icon, rng) for icon in alone)]
            name_ids = torch.tensor([icons.index(icon) for cells in (*grids, alone) for icon in cells])
            place_ids = torch.cat([torch.arange(CELLS).repeat(ROWS), torch.full((len(alone),), CELLS)])
            loss = alignment_loss(_see(tower, processor, pictures), names, name_ids, places, place_ids)
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
        places: [10, width], the embeddings of the words for places, and zeros for none.
        place_ids: [n], where a cell stands.
    """
    size = names.square().sum(1).mean()
    by_name = functional.cross_entropy(tokens @ names.T / size * SHARPNESS, name_ids)
    by_place = functional.cross_entropy(tokens @ places.T / size * SHARPNESS, place_ids)
    distance = (tokens - names[name_ids] - places[place_ids]).square().sum(1).mean() / size
    return by_name + 0.3 * by_place + distance


def _see(tower: Any, processor: Any, pictures: list[bytes]) -> torch.Tensor:
    """The visual tokens of pictures one after the other, [tokens, width]."""
    opened = [Image.open(BytesIO(picture)) for picture in pictures]
    inputs = processor.image_processor(images=opened, return_tensors="pt")
    with torch.autocast("cpu", torch.bfloat16):
        return tower(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output.float()


def _embeddings(model: Any, processor: Any, words: Any) -> torch.Tensor:
    """The embeddings of words as they stand inside a sentence, [words, width]."""
    ids = [processor.tokenizer(f" {word}")["input_ids"] for word in words]
    assert all(len(each) == 1 for each in ids), "the tokenizer keeps each name and place whole"
    return model.get_input_embeddings().weight.detach()[torch.tensor(ids)[:, 0]]
