"""``data.rowcheck``: every accepted form of a row in one shape, every fault in one line, pictures by their headers."""

import io
import struct
import subprocess
import sys
import warnings
import zlib

import numpy
import pytest
from PIL import Image

from balanced_thinking.core.segments import THINK_ANSWER
from balanced_thinking.data.images import image_size, open_image, read_header
from balanced_thinking.data.rowcheck import check_response, read_row
from balanced_thinking.errors import DataError, SegmentError

GOOD = "<think>a</think><answer>b</answer>"


def text(value):
    return {"type": "text", "text": value}


def user(content="Q?"):
    return {"role": "user", "content": content}


def assistant(content=GOOD):
    return {"role": "assistant", "content": content}


IMAGE = {"type": "image"}


def encoded(size=(6, 4), format="PNG", colour=(200, 10, 20), **options):
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, format, **options)
    return stream.getvalue()


def turned(orientation, size=(6, 4), format="JPEG"):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(size, format, exif=exif)


def fault(row, **arguments):
    with pytest.raises(DataError) as caught:
        read_row(row, **arguments)
    line = str(caught.value)
    assert "\n" not in line
    return line


# Rows that can be read ------------------------------------------------------------------------------------------------


def test_messages_with_parts():
    row = read_row({"messages": [user([IMAGE, text("Q?")]), assistant([text(GOOD)])], "images": ["x.png"]}, index=3)
    assert row.id == "row 3"
    assert row.messages == [user([IMAGE, text("Q?")]), assistant([text(GOOD)])]
    assert (row.images, row.text, row.response) == (["x.png"], None, GOOD)


def test_messages_of_strings_become_parts():
    assert read_row({"messages": [user(), assistant()]}).messages == [user([text("Q?")]), assistant([text(GOOD)])]


def test_prompt_and_completion_become_one_conversation():
    row = read_row({"prompt": [user()], "completion": [assistant()]})
    assert row.messages == [user([text("Q?")]), assistant([text(GOOD)])]
    assert row.response == GOOD


def test_plain_strings_stay_plain():
    row = read_row({"prompt": "Q?", "completion": " 4", "image": "x.png"}, index=0)
    assert (row.messages, row.text, row.response, row.images) == (None, ("Q?", " 4"), " 4", ["x.png"])


def test_an_empty_plain_prompt_is_allowed():
    assert read_row({"prompt": "", "completion": "4"}).text == ("", "4")


def test_string_contents_get_one_placeholder_per_picture_before_the_user_text():
    messages = [{"role": "system", "content": "S"}, user("one"), assistant()]
    row = read_row({"messages": messages, "images": ["a", "b"]})
    assert [turn["content"] for turn in row.messages] == [[text("S")], [IMAGE, IMAGE, text("one")], [text(GOOD)]]


def test_among_several_user_turns_none_is_guessed():
    messages = [user("one"), assistant("two"), user("three"), assistant()]
    line = fault({"messages": messages, "image": "a"})
    assert "nothing says which of 2 user turns shows the 1 picture; put" in line
    assert read_row({"messages": messages}).images == []


def test_the_same_placeholders_as_trl_sets():
    from trl.data_utils import prepare_multimodal_messages

    prompt = [{"role": "system", "content": "S"}, user("one")]
    images = [Image.new("RGB", (2, 2)), Image.new("RGB", (3, 3))]
    theirs = prepare_multimodal_messages(prompt, images)
    ours = read_row({"prompt": prompt, "completion": [assistant()], "images": images})
    for turn, other in zip(ours.messages, theirs, strict=False):
        other["content"] = [{k: v for k, v in part.items() if k != "image"} for part in other["content"]]
        assert turn == other


def test_placeholders_that_are_there_are_not_set_again():
    messages = [user([text("look"), IMAGE]), assistant("what?"), user("this"), assistant()]
    row = read_row({"messages": messages, "images": ["a"]})
    assert row.messages[0]["content"] == [text("look"), IMAGE]
    assert row.messages[2]["content"] == [text("this")]


def test_context_may_hold_earlier_assistant_turns():
    row = read_row({"messages": [user("1"), assistant("first"), user("2"), assistant("last")]})
    assert row.response == "last"
    assert len(row.messages) == 4


def test_the_response_may_have_several_text_parts():
    assert read_row({"messages": [user(), assistant([text("<think>a</think>"), text("b")])]}).response == (
        "<think>a</think>b"
    )


def test_system_and_tool_turns_pass_through_with_their_keys():
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "S"},
        user(),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "name": "f", "content": "42"},
        assistant(),
    ]
    row = read_row({"messages": messages})
    assert [turn["role"] for turn in row.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert row.messages[2] == {"role": "assistant", "content": [], "tool_calls": [call]}
    assert row.messages[3] == {"role": "tool", "content": [text("42")], "name": "f"}


def test_keys_that_datasets_fills_with_none_are_dropped():
    messages = [
        {"role": "user", "name": None, "content": [{"type": "image", "text": None}, {"type": "text", "text": "Q?"}]},
        {"role": "assistant", "name": None, "tool_calls": None, "content": [{"type": "text", "text": GOOD}]},
    ]
    row = read_row({"messages": messages, "prompt": None, "completion": None, "image": None, "images": ["a"]})
    assert row.messages == [user([IMAGE, text("Q?")]), assistant([text(GOOD)])]


def test_other_keys_of_parts_are_dropped():
    part = {"type": "text", "text": "Q?", "max_pixels": 3}
    assert read_row({"messages": [user([part]), assistant()]}).messages[0] == user([text("Q?")])


@pytest.mark.parametrize(
    "images", [{}, {"image": None}, {"images": None}, {"images": []}, {"image": None, "images": []}]
)
def test_rows_without_pictures_are_text_only(images):
    assert read_row({"messages": [user(), assistant()], **images}).images == []


@pytest.mark.parametrize(
    "images", [{"image": "a"}, {"images": ["a"]}, {"images": "a"}, {"image": ["a"]}, {"images": ("a",), "image": None}]
)
def test_one_picture_in_any_column(images):
    assert read_row({"messages": [user(), assistant()], **images}).images == ["a"]


def test_pictures_are_passed_on_as_they_are():
    images = ["a.png", b"123", {"bytes": b"1", "path": None}, Image.new("RGB", (1, 1))]
    row = read_row({"messages": [user(), assistant()], "images": images})
    assert all(ours is theirs for ours, theirs in zip(row.images, images, strict=True))


def test_pictures_inside_parts_take_their_own_places():
    content = [{"type": "image", "image": "inside"}, text("and"), IMAGE, {"type": "image", "path": "two"}]
    row = read_row({"messages": [user(content), assistant()], "images": ["outside"]})
    assert row.images == ["inside", "outside", "two"]
    assert row.messages[0]["content"] == [IMAGE, text("and"), IMAGE, IMAGE]


def test_the_callers_row_is_left_as_it_was():
    content = [{"type": "image", "image": "inside"}, text("and")]
    row = {"messages": [user(content), assistant()], "images": []}
    read_row(row)
    assert row == {
        "messages": [user([{"type": "image", "image": "inside"}, text("and")]), assistant()],
        "images": [],
    }


@pytest.mark.parametrize(
    ("row", "index", "name"),
    [({"id": "x7"}, 2, "x7"), ({"id": 7}, None, "7"), ({"id": None}, 2, "row 2"), ({}, 0, "row 0"), ({}, None, "row")],
)
def test_ids(row, index, name):
    assert read_row({"prompt": "a", "completion": "b", **row}, index=index).id == name


def test_a_row_of_a_real_dataset():
    from balanced_thinking.data.records import to_dataset
    from tiny import tiny_examples

    examples = tiny_examples(3)
    row = read_row(to_dataset(examples)[2], index=2)
    assert row.id == "tiny-0002"
    assert row.messages[0]["content"] == [IMAGE, text("Name the colour.")]
    assert row.response.endswith(f"<answer>{examples[2].answer}</answer>")
    assert open_image(row.images[0], record=row.id).getpixel((0, 0)) == examples[2].images[0].getpixel((0, 0))


# Rows that cannot -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "row 4: no text to train on (filled columns: none); give messages, or prompt + completion"),
        ({"a": 1, "b": None}, "no text to train on (filled columns: a)"),
        ({"text": "x"}, "field text: a text column does not say where the response begins; split it into prompt"),
        ({"prompt": "x"}, "field completion: the row has prompt but no completion; add completion"),
        ({"completion": "x"}, "field prompt: the row has completion but no prompt"),
        ({"prompt": "x", "completion": None}, "the row has prompt but no completion"),
        ({"prompt": "x", "completion": " \n"}, "field completion: the completion is empty"),
        ({"prompt": "x", "completion": [assistant()]}, "field prompt: prompt is plain text but completion is not"),
        ({"prompt": [user()], "completion": "x"}, "field completion: completion is plain text but prompt is not"),
        ({"prompt": 3, "completion": [assistant()]}, "field prompt: must be a list of messages, not int"),
        ({"prompt": [user()], "completion": []}, "field completion: the list of messages is empty"),
        ({"messages": []}, "field messages: the list of messages is empty"),
        ({"messages": "x"}, "field messages: must be a list of messages, not str"),
        ({"messages": ["x"]}, "field messages[0]: a message must be an object, not str"),
        ({"messages": [{"content": "x"}]}, "field messages[0]: unknown role None; use one of system, user"),
        ({"messages": [{"role": "human", "content": "x"}]}, "unknown role 'human'"),
        ({"messages": [{"role": "user"}]}, "field messages[0]: the message has no content"),
        ({"messages": [user(3)]}, "field messages[0]: content must be text or a list of parts, not int"),
        ({"messages": [user(["x"])]}, "field messages[0].content[0]: a part must be an object, not str"),
        ({"messages": [user([{"type": "text"}])]}, "field messages[0].content[0]: a text part holds null, not text"),
        ({"messages": [user([text("a"), {"type": "video"}])]}, "content[1]: unknown part type 'video'; only parts of"),
        ({"messages": [user([{"text": "x"}])]}, "unknown part type None"),
        ({"messages": [user()]}, "field messages: no assistant turn, so nothing to train"),
        ({"messages": [user(), assistant(), user()]}, "the last turn is of role user, not assistant; drop the turns"),
        ({"messages": [user(), assistant([])]}, "field messages: the response is empty"),
        ({"messages": [user(), assistant(" ")]}, "the response is empty"),
        ({"messages": [user(), assistant([IMAGE, text("x")])], "images": ["a"]}, "the response holds a picture"),
        ({"messages": [user([IMAGE]), assistant()]}, "1 image placeholder but no pictures; give one placeholder per"),
        ({"messages": [user([IMAGE, IMAGE]), assistant()], "image": "a"}, "2 image placeholders but 1 picture"),
        ({"messages": [user([text("x")]), assistant()], "image": "a"}, "no image placeholders but 1 picture"),
        ({"messages": [assistant()], "image": "a"}, "no image placeholders but 1 picture"),
        ({"messages": [user(), assistant()], "image": "a", "images": ["b"]}, "the row has both image and images"),
        ({"messages": [user(), assistant()], "images": [None]}, "field images: the picture is missing (null)"),
        ({"messages": [user(), assistant()], "images": ["a", None]}, "field images[1]: the picture is missing (null)"),
    ],
)
def test_faults_name_the_record_the_field_and_the_remedy(row, message):
    line = fault(row, index=4)
    assert line.startswith("record row 4")
    assert message in line


def test_faults_name_the_file_and_the_id():
    assert fault({"id": "x7", "text": "a"}, index=4, file="d.jsonl").startswith("d.jsonl, record x7, field text: ")


def test_a_row_must_be_a_mapping():
    assert "a row must map columns to values, not list" in fault([], index=1)


# Responses ------------------------------------------------------------------------------------------------------------


def row_of(response):
    return read_row({"id": "r", "prompt": "Q?", "completion": response})


@pytest.mark.parametrize("on_malformed", ["error", "skip", "keep"])
def test_a_good_response_has_no_fault(on_malformed):
    assert check_response(row_of(GOOD), THINK_ANSWER, on_malformed=on_malformed) is None


@pytest.mark.parametrize(
    ("response", "kind"), [("4", "no-think"), ("<think>a</think><answer></answer>", "empty-answer")]
)
def test_a_faulty_response_is_named_with_its_record(response, kind):
    for on_malformed in ("error", "skip"):
        error = check_response(row_of(response), THINK_ANSWER, on_malformed=on_malformed)
        assert isinstance(error, SegmentError)
        assert error.kind == kind
        assert str(error).startswith("record r: ")


def test_keep_minds_no_fault():
    assert check_response(row_of("4"), THINK_ANSWER, on_malformed="keep") is None


# Pictures -------------------------------------------------------------------------------------------------------------


def forms(data, tmp_path):
    path = tmp_path / "picture"
    path.write_bytes(data)
    return [
        data,
        bytearray(data),
        path,
        str(path),
        {"bytes": data, "path": None},
        {"bytes": data, "path": "elsewhere.png"},
        {"bytes": None, "path": str(path)},
        {"path": str(path)},
        Image.open(io.BytesIO(data)),
    ]


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_form_of_a_picture_is_read(format, tmp_path):
    for value in forms(encoded((6, 4), format), tmp_path):
        assert image_size(value, record="r") == (6, 4)
        image = open_image(value, record="r")
        assert (image.mode, image.size) == ("RGB", (6, 4))
        red, green, blue = image.getpixel((0, 0))
        assert abs(red - 200) < 12
        assert abs(green - 10) < 12
        assert abs(blue - 20) < 12


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV", "LAB", "I;16"]
)
def test_every_mode_becomes_rgb(mode):
    assert open_image(Image.new(mode, (3, 2)), record="r").mode == "RGB"


def drawn(mode: str) -> Image.Image:
    """Black ink of full opacity left, nothing in the middle (black, as most programs leave it), half of it right."""
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    image.putpixel((0, 0), (0, 0, 0, 255))
    image.putpixel((2, 0), (0, 0, 0, 128))
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("format", ["PNG", None])
def test_transparent_pictures_are_shown_on_white(mode, format):
    """Before, a transparent diagram was black on black."""
    image = drawn(mode)
    value = image
    if format:
        stream = io.BytesIO()
        image.save(stream, format)
        value = stream.getvalue()
    left, middle, right = (open_image(value, record="r").getpixel((x, 0)) for x in range(3))
    assert (left, middle) == ((0, 0, 0), (255, 255, 255))
    assert right == (127, 127, 127)
    assert read_header(value, record="r").transparent
    assert not read_header(encoded((6, 4)), record="r").transparent


def test_a_colour_of_a_palette_may_be_transparent():
    image = Image.new("P", (2, 1), 0)
    image.putpalette([0, 0, 0, 9, 9, 9])
    image.putpixel((1, 0), 1)
    stream = io.BytesIO()
    image.save(stream, "GIF", transparency=0)
    found = open_image(stream.getvalue(), record="r")
    assert [found.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), (9, 9, 9)]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_to_eight(format):
    """Before, everything above 255 of 65,535 was white."""
    stream = io.BytesIO()
    levels = numpy.array([[0, 255, 256, 32768, 65535]], dtype=numpy.uint16)
    Image.fromarray(levels).save(stream, format)
    image = open_image(stream.getvalue(), record="r")
    assert [image.getpixel((x, 0))[0] for x in range(5)] == [0, 0, 1, 128, 255]


def test_a_grey_of_sixteen_bits_may_be_transparent():
    stream = io.BytesIO()
    Image.fromarray(numpy.array([[0, 40000]], dtype=numpy.uint16)).save(stream, "PNG", transparency=0)
    image = open_image(stream.getvalue(), record="r")
    assert [image.getpixel((x, 0))[0] for x in range(2)] == [255, 156]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_range_are_refused(mode):
    stream = io.BytesIO()
    Image.new(mode, (3, 2)).save(stream, "TIFF")
    for read in (image_size, open_image):
        with pytest.raises(
            DataError, match=rf"record r, field images: nothing says .*\(mode {mode}: .*; save it with 8 or"
        ):
            read(stream.getvalue(), record="r")


def test_the_callers_picture_is_not_changed_or_closed():
    image = Image.new("RGB", (3, 2), (1, 2, 3))
    copy = open_image(image, record="r")
    copy.putpixel((0, 0), (9, 9, 9))
    image_size(image, record="r")
    assert image.getpixel((0, 0)) == (1, 2, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_size_and_pixels_agree_on_the_orientation(orientation, format):
    data = turned(orientation, format=format)
    size = (6, 4) if orientation < 5 else (4, 6)
    assert image_size(data, record="r") == size
    assert open_image(data, record="r").size == size


def test_a_turned_picture_is_set_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: to be shown rotated clockwise by 90 degrees
    image = Image.new("RGB", (2, 1))
    image.putdata([(255, 0, 0), (0, 0, 255)])
    stream = io.BytesIO()
    image.save(stream, "PNG", exif=exif)
    upright = open_image(stream.getvalue(), record="r")
    assert [upright.getpixel((0, y)) for y in range(2)] == [(255, 0, 0), (0, 0, 255)]


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_does_not_exist_is_upright(orientation):
    assert image_size(turned(orientation), record="r") == open_image(turned(orientation), record="r").size == (6, 4)


def test_the_size_is_read_without_the_pixels(tmp_path):
    # A header that promises 4 million pixels and an end mark, but no pixels at all.
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 2000, 2000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    assert image_size(data, record="r") == (2000, 2000)


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_a_picture_that_is_cut_off_is_found_by_its_size_already(format):
    data = encoded((64, 64), format)
    with pytest.raises(DataError, match="record r, field images: the picture cannot be read"):
        image_size(data[: len(data) - 30], record="r")


def test_a_picture_that_lacks_only_its_end_mark_is_whole():
    data = encoded((64, 64), "PNG")[:-8]
    assert image_size(data, record="r") == open_image(data, record="r").size == (64, 64)


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_bytes_behind_a_whole_picture_do_no_harm(format):
    assert image_size(encoded((6, 4), format) + b"more", record="r") == (6, 4)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"", "cannot be read (UnidentifiedImageError: unknown or damaged file type)"),
        (b"not a picture", "unknown or damaged file type"),
        (b"\x89PNG\r\n\x1a\n", "cannot be read"),
        ("none.png", "no such picture: none.png; check the path"),
        ({"bytes": None, "path": "none.png"}, "no such picture: none.png"),
        ({"bytes": None, "path": None}, "a picture cannot be null; give a path, encoded bytes or a PIL image"),
        ({}, "a picture cannot be null"),
        (None, "a picture cannot be null"),
        (3, "a picture cannot be int"),
        ([[1]], "a picture cannot be list"),
        ("https://x/y.png", "the picture https://x/y.png is not on this machine; download it"),
        ("/", "the picture / cannot be opened (Is a directory)"),
        ("iVBO" * 9_000, "the picture iVBOiVBOiVBOiVBOiVBOiVBOiVBOiVBOiVBOiVBO.. (36,000 characters) cannot be opened"),
        ("a\0b", "cannot be opened"),
    ],
)
@pytest.mark.parametrize("read", [image_size, open_image])
def test_pictures_that_cannot_be_read(read, value, message):
    with pytest.raises(DataError) as caught:
        read(value, record="r")
    assert str(caught.value).startswith("record r, field images: ")
    assert message in str(caught.value)


def test_a_broken_file_is_named(tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"the picture .*broken\.png cannot be read"):
        image_size(str(path), record="r")


def test_a_decompression_bomb_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match="DecompressionBombError"):
        image_size(encoded((64, 64)), record="r")


def test_no_file_stays_open(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded())
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        for read in (image_size, open_image):
            read(str(path), record="r")
    path.write_bytes(b"broken")
    with pytest.raises(DataError):
        open_image(str(path), record="r")


def test_it_needs_no_torch_nor_other_heavy_package():
    code = (
        "import sys; from balanced_thinking.data.rowcheck import read_row\n"
        "read_row({'prompt': 'a', 'completion': 'b'})\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'PIL', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
