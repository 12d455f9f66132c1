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
