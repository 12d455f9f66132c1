"""The sight of an embedded model learns to speak in words before its text model learns to read them.

The visual token of a cell is trained to be the sum of two word embeddings, the icon's name and its place (of an icon in
a picture of its own, the name alone): what CLIP gives a large model, in a minute. From there a text model finds icons
by name within some hundred steps; from random towers it did not in thousands.
What it leaves out: the text model and all training after (``pretrain``).
"""

import inspect
import random
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from balanced_thinking.demo.presets.families import FAMILIES, family_of
from balanced_thinking.evaluation.benchmarks.icons_pool import Icon, seen_icons
from balanced_thinking.evaluation.benchmarks.icons_scene import CELLS, POSITIONS, draw, draw_icon

ROWS, LEARNING_RATE, WARMUP = 32, 2e-3, 20
SHARPNESS = 10.0  # logit of a perfect match


def align(source: Path, folder: Path, *, steps: int, seed: int = 0, progress: bool = True) -> None:
    """Write the model of ``source`` to ``folder`` with its sight aligned to its word embeddings."""
    from tqdm.auto import trange
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model, processor = AutoModelForImageTextToText.from_pretrained(source), AutoProcessor.from_pretrained(source)
    optimizer = torch.optim.AdamW(sight_parameters(model), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP, (1 - step / steps) / 0.5)
    )
    rng, cells = random.Random(f"align/{seed}"), token_cells(family_of(str(source)))
    icons = [icon for group in seen_icons().values() for icon in group]
    names, places = (_embeddings(model, processor, words) for words in ([i.name for i in icons], POSITIONS))
    places = torch.cat([places, torch.zeros(1, places.shape[1])])  # no place
    with trange(steps, desc="aligning", disable=not progress) as bar:
        for _ in bar:
            grids = [rng.choices(icons, k=CELLS) for _ in range(ROWS)]
            alone = rng.choices(icons, k=2 * ROWS)
            whole = see(model, processor, [draw(grid, rng) for grid in grids])
            single = see(model, processor, [draw_icon(icon, rng) for icon in alone])
            loss = alignment_loss(*_paired(whole, single, cells, grids, alone, icons, names, places))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(sight_parameters(model), 1.0)
            optimizer.step()
            schedule.step()
            bar.set_postfix(loss=f"{loss.item():.2f}")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def sight_parameters(model: Any) -> list[nn.Parameter]:
    """All that turns pixels into what the text model reads: everything but the text model and its head."""
    text = {id(p) for part in (model.get_decoder(), model.get_output_embeddings()) for p in part.parameters()}
    return [parameter for parameter in model.parameters() if id(parameter) not in text]


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


def _paired(
    whole: torch.Tensor,
    single: torch.Tensor,
    cells: Sequence[int | None],
    grids: Sequence[Sequence[Icon]],
    alone: Sequence[Icon],
    icons: Sequence[Icon],
    names: torch.Tensor,
    places: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """The arguments of ``alignment_loss``; a lone icon shows itself in each token that shows anything.

    Args:
        whole: [grids, tokens, width] of pictures of grids.
        single: [icons, tokens, width] of pictures of one icon.
        cells: Which cell each token of a grid shows.
        grids: The icons of each grid.
        alone: The icons of the single pictures.
        icons: All icons, in the order of ``names``.
        names: [words, width].
        places: [10, width].
    """
    shows = [token for token, cell in enumerate(cells) if cell is not None]
    lone = shows if single.shape[1] == len(cells) else list(range(single.shape[1]))
    cell_ids = torch.tensor([cell for cell in cells if cell is not None])
    in_cells = torch.tensor([[icons.index(icon) for icon in grid] for grid in grids])[:, cell_ids]
    on_own = torch.tensor([icons.index(icon) for icon in alone]).repeat_interleave(len(lone))
    return (
        torch.cat([whole[:, shows].flatten(0, 1), single[:, lone].flatten(0, 1)]),
        names,
        torch.cat([in_cells.flatten(), on_own]),
        places,
        torch.cat([cell_ids.repeat(len(grids)), torch.full_like(on_own, CELLS)]),
    )


def token_cells(family: str) -> Sequence[int | None]:
    """The cell that each visual token of a picture of nine cells shows; None: no cell."""
    module: Any = FAMILIES[family]
    return module.token_cells(3) if hasattr(module, "token_cells") else range(CELLS)


def see(model: Any, processor: Any, pictures: Sequence[bytes]) -> torch.Tensor:
    """The visual tokens of pictures that all take as many, [pictures, tokens, width]."""
    opened = [[Image.open(BytesIO(picture)).convert("RGB")] for picture in pictures]
    inputs = processor.image_processor(images=opened, return_tensors="pt")
    taken = inspect.signature(model.get_image_features).parameters
    with torch.autocast("cpu", torch.bfloat16):
        seen = model.get_image_features(**{name: value for name, value in inputs.items() if name in taken})
    features = seen.pooler_output
    tokens = features if isinstance(features, torch.Tensor) else torch.cat(list(features))
    return tokens.reshape(len(pictures), -1, tokens.shape[-1]).float()


def _embeddings(model: Any, processor: Any, words: Sequence[str]) -> torch.Tensor:
    """The embeddings of words as they stand inside a sentence, [words, width]; scaled as the text model sees them.

    Of a word that the tokenizer does not keep whole, the mean over its tokens.
    """
    ids = [processor.tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in words]
    with torch.no_grad():
        return torch.stack([model.get_input_embeddings()(torch.tensor(each)).mean(0) for each in ids])
