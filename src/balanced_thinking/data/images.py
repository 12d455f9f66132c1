"""A picture, however it is given: what its header says, and its pixels as RGB, upright.

Transparent pictures are shown on white, since most diagrams with a transparent ground are dark on light and "RGB" alone
would make them black; pixels of 16 bits are scaled to 8. What it leaves out: where a picture is (``formats.pictures``),
which picture belongs to which turn (``rowcheck``).
"""

import struct
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from balanced_thinking.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

# Marks at the end of a whole file; without them the pixels are decoded to find out.
_ENDS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}
_ORIENTATION = 0x0112
_LONGEST = 300
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_WITHOUT_RANGE = ("I", "F")  # signed whole numbers and fractions: what is white is known to their makers alone


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of a picture without its pixels.

    Attributes:
        size: (width, height) upright.
        transparent: Whether it has an alpha channel or a transparent colour, which is shown on white.
        sixteen_bits: Whether its pixels are scaled to eight.
    """

    size: tuple[int, int]
    transparent: bool
    sixteen_bits: bool


def open_image(value: Any, *, record: str) -> "Image":
    """The picture as RGB, turned upright by its EXIF orientation.

    Args:
        value: Path, encoded bytes, ``{"bytes", "path"}`` as ``datasets`` stores them, or a PIL image.
        record: The row's id, for messages.

    Raises:
        DataError: the picture is missing or cannot be read.
    """
    from PIL import ImageOps

    with _opened(value, record) as (image, _):
        _check_mode(image, record)
        return _on_white(image if _orientation(image) == 1 else ImageOps.exif_transpose(image))


def image_size(value: Any, *, record: str) -> tuple[int, int]:
    """(width, height) of ``open_image(value)``; see ``read_header``."""
    return read_header(value, record=record).size


def read_header(value: Any, *, record: str) -> Header:
    """What ``open_image(value)`` will give, from the header alone.

    A PNG or JPEG file that does not end as it should is decoded, so that a picture cut off half-way is found here and
    not in the middle of training.

    Raises:
        DataError: the picture is missing or cannot be read.
    """
    with _opened(value, record) as (image, stream):
        _check_mode(image, record)
        width, height = image.size
        turned = _orientation(image) >= 5
        if stream is not None and _looks_cut(image.format, stream):
            image.load()
        size = (height, width) if turned else (width, height)
        return Header(size, image.has_transparency_data, _has_sixteen_bits(image))


def plain_picture(value: Any) -> Any:
    """A picture as bytes where it is encoded, in whatever they are wrapped; else its path or what else it is.

    Raises:
        DataError: a ``data:`` address whose content is not base64.
    """
    if isinstance(value, Mapping):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if isinstance(value, str) and value.startswith("data:"):
        try:
            return b64decode(value.partition(",")[2], validate=True)
        except ValueError as error:
            raise DataError(
                f"the picture {shortened(value)} is not base64", field="images", remedy="mend it"
            ) from error
    return bytes(value) if isinstance(value, bytearray | memoryview) else value


def shortened(path: object) -> str:
    """A path for a message; a picture written out as text would fill pages."""
    text = str(path)
    return text if len(text) <= _LONGEST else f"{text[:40]}.. ({len(text):,} characters)"


@contextmanager
def _opened(value: Any, record: str) -> Iterator[tuple["Image", IO[bytes] | None]]:
    """The picture, header read, and the stream it comes from; whatever fails until the end names the record."""
    from PIL import Image

    value = plain_picture(value)
    if isinstance(value, Image.Image):
        stream: IO[bytes] | None = None
    elif isinstance(value, bytes):
        stream = BytesIO(value)
    elif isinstance(value, str | PathLike):
        stream = open_file(value, record=record)
    else:
        remedy = "give a path, encoded bytes or a PIL image"
        raise DataError(
            f"a picture cannot be {'null' if value is None else type(value).__name__}",
            record=record,
            field="images",
            remedy=remedy,
        )
    try:
        yield (value if stream is None else Image.open(stream), stream)
    except DataError:  # is a ValueError, and says it already
        raise
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        named = f" {value}" if isinstance(value, str | PathLike) else ""
        message = f"the picture{named} cannot be read ({type(error).__name__}: {_reason(error)})"
        remedy = "replace the picture, or leave the row out"
        raise DataError(message, record=record, field="images", remedy=remedy) from error
    finally:
        if stream is not None:
            stream.close()


def open_file(path: str | PathLike, *, record: str) -> IO[bytes]:
    """The encoded picture of a path, to be read.

    Raises:
        DataError: the picture is missing or cannot be opened.
    """
    if str(path).startswith(("http://", "https://")):
        message, remedy = f"the picture {shortened(path)} is not on this machine", "download it and give its path"
    else:
        try:
            return Path(path).open("rb")
        except FileNotFoundError:
            message = f"no such picture: {shortened(path)}"
            remedy = "check the path, or the folder that it is relative to"
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            message, remedy = (
                f"the picture {shortened(path)} cannot be opened ({reason})",
                "check the file and its permissions",
            )
    raise DataError(message, record=record, field="images", remedy=remedy)


def _has_sixteen_bits(image: "Image") -> bool:
    return image.mode in _SIXTEEN_BITS or (image.mode == "I" and image.format == "PPM")  # PIL scales PGM to 65,535


def _check_mode(image: "Image", record: str) -> None:
    if image.mode in _WITHOUT_RANGE and not _has_sixteen_bits(image):
        raise DataError(
            f"nothing says which values of the picture are black and white (mode {image.mode}: signed, or fractions)",
            record=record,
            field="images",
            remedy="save it with 8 or 16 bits without sign, or leave the row out",
        )


def _on_white(image: "Image") -> "Image":
    """The picture as RGB."""
    from PIL import Image as Pillow

    if _has_sixteen_bits(image):
        import numpy

        pixels = numpy.asarray(image)
        grey = (pixels >> 8).astype(numpy.uint8)
        if isinstance(clear := image.info.get("transparency"), int):
            grey[pixels == clear] = 255
        return Pillow.fromarray(grey).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    seen = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return Pillow.alpha_composite(Pillow.new("RGBA", seen.size, "white"), seen).convert("RGB")


def _reason(error: Exception) -> str:
    """PIL names the stream object, which tells the user nothing."""
    return "unknown or damaged file type" if "cannot identify image file" in str(error) else str(error)


def _orientation(image: "Image") -> int:
    """EXIF orientation 1 to 8, 1 being upright.

    A PNG whose header has none is not searched further, since that would decode its pixels. PIL turns TIFF itself.
    """
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    value = image.getexif().get(_ORIENTATION, 1)
    return value if value in range(1, 9) else 1


def _looks_cut(format_name: str | None, stream: IO[bytes]) -> bool:
    end = _ENDS.get(format_name or "")
    if end is None:
        return False
    position = stream.tell()
    stream.seek(-len(end), 2)
    whole = stream.read() == end
    stream.seek(position)
    return not whole
