"""Fingerprints of pictures and of what renders prompts: the same wherever a folder lies, others where content is."""

import io
import json
import shutil

import pytest
from PIL import Image

from balanced_thinking.core.segments import THINK_ANSWER
from balanced_thinking.data.example import Example
from balanced_thinking.errors import DataError
from balanced_thinking.evaluation.identity import asked_identity, pictures_identity, rendering_identity
from balanced_thinking.evaluation.question import Question
from tiny import tiny_processor, tiny_qwen2_5_vl


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


def of(*images):
    return pictures_identity([("r", images)])


def test_pictures_are_told_apart_by_content(tmp_path):
    red, blue = png("red"), png("blue")
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "p.png").write_bytes(red)
    forms = [red, bytearray(red), {"bytes": red, "path": None}, str(tmp_path / "a/p.png"), tmp_path / "b/p.png"]
    assert len({of(form) for form in [*forms, {"bytes": None, "path": str(tmp_path / "a/p.png")}]}) == 1
    (tmp_path / "b" / "p.png").write_bytes(blue)
    assert of(tmp_path / "b/p.png") == of(blue) != of(red)
    assert of(red, blue) != of(blue, red)
    assert of() is None


def test_pixels_of_pil_pictures_count():
    shades = [Image.new("RGB", (4, 4), (i, 0, 0)) for i in (1, 1, 2)]
    assert of(shades[0]) == of(shades[1]) != of(shades[2])
    assert of(Image.new("RGB", (2, 8))) != of(Image.new("RGB", (8, 2)))
    palettes = [Image.new("RGB", (4, 4), colour).quantize() for colour in ("red", "blue")]
    assert of(palettes[0]) != of(palettes[1])


def test_what_a_score_goes_by_is_part_of_a_question():
    def told(**facts):
        example = Example("1", "mathvista", (), "How long?", None, None, "1.52", "number")
        return asked_identity([Question(example, facts=facts)], THINK_ANSWER)["questions"]

    assert told(precision=1) == told(precision=1)
    assert len({told(), told(precision=1), told(precision=2), told(direct_answers=["1", "2"])}) == 4


def test_a_missing_picture_is_named(tmp_path):
    with pytest.raises(DataError, match=r"record r, field images|record r: no such picture"):
        of(tmp_path / "none.png")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return tiny_qwen2_5_vl(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize(
    ("name", "change", "same"),
    [
        ("chat_template.jinja", lambda text: text + "so: ", False),
        ("processor_config.json", lambda text: text.replace("1024", "512"), False),
        ("processor_config.json", lambda text: json.dumps(json.loads(text) | {"transformers_version": "0"}), True),
        ("tokenizer_config.json", lambda text: json.dumps(json.loads(text) | {"chat_template": "x"}), False),
    ],
)
def test_template_and_processor_are_told_apart(saved, tmp_path, name, change, same):
    folder = tmp_path / "moved"
    shutil.copytree(saved, folder)
    assert rendering_identity(folder) == rendering_identity(saved)
    before = (folder / name).read_text()
    (folder / name).write_text(change(before))
    assert (folder / name).read_text() != before
    assert (rendering_identity(folder) == rendering_identity(saved)) is same


def test_a_loaded_processor_is_told_apart_too():
    one, two = tiny_processor(), tiny_processor()
    assert rendering_identity((None, one)) == rendering_identity((None, two))
    two.image_processor.size = {"shortest_edge": 64, "longest_edge": 256}
    assert rendering_identity((None, one)) != rendering_identity((None, two))
    assert rendering_identity("some/hub-id") is None
