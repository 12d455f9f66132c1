"""What is special to a family of models and can be known without loading one: how pictures become tokens, and how many.

The processors of transformers answer that for vLLM through ``_get_num_multimodal_tokens``, private but common to all
families. Where it is missing, or leaves out the marks around a picture (Gemma 3), which a probe shows, a blank picture
of that size goes through the processor. Torch-free.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from balanced_thinking.data.rowcheck import counted
from balanced_thinking.errors import ConfigError, DataError

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


def refuse_own_marks(processor: Any, text: str, *, pictures: int, record: str) -> None:
    """Whether a text as the model reads it holds the mark of each of its pictures, and no other.

    A question, choice or response may spell a picture's token (``<image>``, ``<|image_pad|>``), which the tokenizer
    takes for a picture. Tokens of moving pictures, and those that a family puts in place of a mark, count too.

    Raises:
        DataError: it holds more or fewer; names the record.
    """
    for mark, wanted in _marks(processor, pictures).items():
        if (found := text.count(mark)) != wanted:
            message = f"{counted(found, 'picture token')} {mark} in the text that the model reads, but "
            message += counted(pictures, "picture")
            remedy = f"take {mark} out of the question, the choices and the response, or leave the row out"
            raise DataError(message, record=record, remedy=remedy)


def _marks(processor: Any, pictures: int) -> dict[str, int]:
    """How often each token that stands for a picture occurs in a text before it is expanded."""
    mark = getattr(processor, "image_token", None)
    if mark is None:
        return {}
    put_in = processor.tokenizer.convert_ids_to_tokens(list(getattr(processor, "image_token_ids", None) or ()))
    others = [*put_in, getattr(processor, "video_token", None)]
    return dict.fromkeys(filter(None, others), 0) | {mark: pictures}


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


def sees_crops(processor: Any) -> bool | None:
    """Whether pan-and-scan is on, by which Gemma 3 sees a picture in crops too; None: the family has no such thing."""
    pictures: Any = getattr(processor, "image_processor", None)
    return bool(pictures.do_pan_and_scan) if hasattr(pictures, "do_pan_and_scan") else None


def cut_into_crops(processor: Any) -> None:
    """Turn on pan-and-scan, by which Gemma 3 sees wide and tall pictures in further crops; saved beside the model.

    Raises:
        ConfigError: the family has no such thing.
    """
    if sees_crops(processor) is None:
        raise ConfigError(f"pan_and_scan does not apply to {type(processor).__name__}; leave it out")
    processor.image_processor.do_pan_and_scan = True
    keep_saved_settings(processor)


def keep_saved_settings(processor: Any) -> None:
    """Let the pan-and-scan saved with a model rule over the defaults of its processor's class.

    By itself Gemma 3's processor ignores what is saved: the class's ``images_kwargs`` win (transformers 5.23), so that
    training and evaluation would see other pictures than whoever set it meant.
    """
    if sees_crops(processor):
        defaults = type(processor).images_kwargs
        saved = {name: getattr(processor.image_processor, name, None) for name in defaults}
        processor.images_kwargs = defaults | {name: value for name, value in saved.items() if value is not None}


def arranged(processor: Any, pictures: Sequence[Sequence[Any]]) -> list[Any]:
    """The pictures of a batch, row by row, in the form that the family's processor takes.

    Rows without any are left out, since most processors refuse an empty list; Gemma 3's needs them.
    """
    if all(pictures) or sees_crops(processor) is not None:
        return list(pictures)
    return [image for images in pictures for image in images]


def refuse_sizes(processor: Any, sizes: Sequence[tuple[int, int]], *, record: str) -> None:
    """Whether the family's processor takes pictures of these (width, height); Qwen's refuses one of 2000 x 2.

    Raises:
        DataError: names the record.
    """
    if hasattr(processor, "_get_num_multimodal_tokens"):
        for width, height in sizes:
            try:
                _closed_form(processor, width, height)
            except DataError as error:
                raise error.at(record=record) from error


def _closed_form(processor: Any, width: int, height: int) -> int:
    try:
        return int(processor._get_num_multimodal_tokens(image_sizes=[(height, width)])["num_image_tokens"][0])
    except ValueError as error:
        message = f"the model's processor refuses a picture of {width} x {height} ({error})"
        raise DataError(message, field="images", remedy="crop or pad it, or leave the row out") from error


def _by_processing(processor: Any, width: int, height: int) -> int:
    from PIL import Image

    mark = getattr(processor, "image_token", None)
    if mark is None:
        raise ConfigError(f"{type(processor).__name__} takes pictures but names no image_token; it is not supported")
    with_picture = processor(text=[mark], images=[[Image.new("RGB", (width, height))]])["input_ids"][0]
    without = processor.tokenizer(mark)["input_ids"]
    return len(with_picture) - len(without) + 1
