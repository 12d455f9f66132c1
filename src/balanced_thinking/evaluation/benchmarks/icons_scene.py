"""A 3 x 3 grid of icons: its places, its layouts and its picture.

A cell is 28 pixels wide, one merged visual token of Qwen2.5-VL (patch 14, merge 2), so seeing stays cheap for a tiny
model; size, place and ground of every icon vary a little, so that equal icons are not equal pixels.
What it leaves out: questions (``icons_tasks``) and traces (``icons_traces``).
"""

import random
from collections.abc import Sequence
from io import BytesIO

from balanced_thinking.evaluation.benchmarks.icons_pool import Icon, sprite

CELL = 28
SIDE = 3
CELLS = SIDE * SIDE
# One word each, so that naming a place is one step for a small model.
POSITIONS = ("northwest", "north", "northeast", "west", "centre", "east", "southwest", "south", "southeast")
ROWS = ("top", "middle", "bottom")
Cells = tuple[Icon, ...]


def row_of(cells: Sequence[Icon], row: int) -> Sequence[Icon]:
    """The icons of one row, left to right."""
    return cells[row * SIDE : (row + 1) * SIDE]


def arrange(counts: Sequence[tuple[Icon, int]], rng: random.Random) -> Cells:
    """A shuffled grid with each icon the given number of times (together nine)."""
    cells = [icon for icon, count in counts for _ in range(count)]
    assert len(cells) == CELLS
    rng.shuffle(cells)
    return tuple(cells)


def split(total: int, parts: int, rng: random.Random, *, least: int = 1) -> list[int]:
    """``total`` as a random sum of ``parts`` numbers, each at least ``least``."""
    sizes = [least] * parts
    for _ in range(total - least * parts):
        sizes[rng.randrange(parts)] += 1
    assert sum(sizes) == total
    return sizes


def draw(cells: Sequence[Icon], rng: random.Random) -> bytes:
    """The grid as the bytes of a PNG: 84 x 84 pixels, RGB.

    The ground is redder to the right and greener downwards. Qwen2.5-VL knows positions only relative to each other; a
    large model works out where a cell stands, a tiny one is told by the light, as photographs tell it.
    """
    from PIL import Image

    canvas = Image.new("RGB", (SIDE * CELL, SIDE * CELL))
    blue = rng.randrange(190, 256)
    for place, icon in enumerate(cells):
        row, column = divmod(place, SIDE)
        ground = (185 + 30 * column + rng.randrange(10), 185 + 30 * row + rng.randrange(10), blue)
        _put(canvas, icon, (column * CELL, row * CELL), ground, rng)
    return _png(canvas)


def draw_icon(icon: Icon, rng: random.Random) -> bytes:
    """One icon on grey ground as the bytes of a PNG: 28 x 28 pixels, RGB."""
    from PIL import Image

    canvas = Image.new("RGB", (CELL, CELL))
    _put(canvas, icon, (0, 0), (rng.randrange(120, 150),) * 3, rng)
    return _png(canvas)


def _put(canvas, icon: Icon, corner: tuple[int, int], ground: tuple[int, int, int], rng: random.Random) -> None:
    """An icon of some size somewhere in a cell of some colour."""
    left, top = corner
    canvas.paste(ground, (left, top, left + CELL, top + CELL))
    side = rng.randrange(22, 27)
    picture = sprite(icon, side)
    canvas.paste(picture, (left + rng.randrange(CELL - side + 1), top + rng.randrange(CELL - side + 1)), picture)


def _png(picture) -> bytes:
    from PIL import Image

    buffer = BytesIO()
    # 128 colours: a quarter of the bytes, drawn as fast, no difference to the eye.
    picture.quantize(128, method=Image.Quantize.FASTOCTREE).save(buffer, format="PNG")
    return buffer.getvalue()
