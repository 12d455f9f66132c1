"""What is special to a family of models and can be known without loading one: how many tokens a picture becomes.

The processors of transformers answer that for vLLM through ``_get_num_multimodal_tokens``, private but common to all
families. Where it is missing, or leaves out the marks around a picture (Gemma 3), which a probe shows, a blank picture
of that size goes through the processor. Torch-free.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from balanced_thinking.errors import ConfigError

_PROBE = (64, 48)


def image_token_counter(processor: Any) -> Callable[[Sequence[tuple[int, int]]], int]:
    """A function from the (width, height) of a row's pictures to the tokens they take in place of their marks."""

    @functools.cache
    def closed_form_holds() -> bool:
        width, height = _PROBE
        return _closed_form(processor, width, height) == _by_processing(processor, width, height)

    @functools.cache
    def one(width: int, height: int) -> int:
        if hasattr(processor, "_get_num_multimodal_tokens") and closed_form_holds():
            return _closed_form(processor, width, height)
        return _by_processing(processor, width, height)

    return lambda sizes: sum(one(*size) for size in sizes)


def limit_pixels(processor: Any, max_pixels: int) -> None:
    """Shrink pictures to at most so many pixels, for families that give larger pictures more tokens (Qwen's).

    It stands in the processor, which is saved beside the model, so that evaluation shrinks them alike.

    Raises:
        ConfigError: the family resizes every picture by rules of its own, or less than one token would be left.
    """
    pictures: Any = getattr(processor, "image_processor", None)
    if not hasattr(pictures, "merge_size"):
        family = type(processor).__name__
        raise ConfigError(
            f"max_pixels does not apply to {family}, which resizes pictures by its own rules; leave it out"
        )
    least = (pictures.patch_size * pictures.merge_size) ** 2
    if max_pixels < least:
        raise ConfigError(f"max_pixels must be at least {least}, one token of this model, not {max_pixels}")
    shortest = min(pictures.size.shortest_edge, max_pixels)
    pictures.size = type(pictures.size)(shortest_edge=shortest, longest_edge=max_pixels)


def _closed_form(processor: Any, width: int, height: int) -> int:
    return int(processor._get_num_multimodal_tokens(image_sizes=[(height, width)])["num_image_tokens"][0])


def _by_processing(processor: Any, width: int, height: int) -> int:
    from PIL import Image

    mark = getattr(processor, "image_token", None)
    if mark is None:
        raise ConfigError(f"{type(processor).__name__} takes pictures but names no image_token; it is not supported")
    with_picture = processor(text=[mark], images=[[Image.new("RGB", (width, height))]])["input_ids"][0]
    without = processor.tokenizer(mark)["input_ids"]
    return len(with_picture) - len(without) + 1
