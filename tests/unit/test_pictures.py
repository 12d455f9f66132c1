"""``data.formats.pictures``: where the pictures of a record are found, and in which forms they come."""

import json
from base64 import b64encode, encodebytes
from io import BytesIO

import pytest
from PIL import Image

from balanced_thinking.data.records import load_examples
from balanced_thinking.errors import DataError

ROW = {"question": "Q?", "reasoning": "so", "answer": "x"}


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_picture_may_be_base64_text(tmp_path, kind, wrapped):
    """It was looked for as a file of that name."""
    encoded = BytesIO()
    Image.effect_noise((16, 16), 9).convert("RGB").save(encoded, kind)
    text = (encodebytes if wrapped else b64encode)(encoded.getvalue()).decode()
    (tmp_path / "a.jsonl").write_text(json.dumps({**ROW, "image": text}))
    (example,) = load_examples(tmp_path / "a.jsonl")
    assert example.images == (encoded.getvalue(),)


def test_what_is_no_base64_stays_a_path(tmp_path):
    folder = tmp_path / "R0lGOD" / ("deep" * 20)
    folder.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(folder / "a.png")
    name = f"R0lGOD/{'deep' * 20}/a.png"
    (tmp_path / "a.jsonl").write_text(json.dumps({**ROW, "image": name}))
    (example,) = load_examples(tmp_path / "a.jsonl")
    assert example.images == (str(tmp_path / name),)


@pytest.mark.parametrize(("cut", "message"), [(0, "the picture cannot be read"), (3, "is not base64; write it again")])
def test_broken_base64_is_called_so(tmp_path, cut, message):
    text = b64encode(b"\x89PNG\r\n\x1a\n\0" + b"x" * 5000).decode()
    (tmp_path / "a.jsonl").write_text(json.dumps({**ROW, "image": text[: len(text) - cut]}))
    with pytest.raises(DataError, match=f"record line 1, field image: .*{message}") as caught:
        list(load_examples(tmp_path / "a.jsonl"))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("inside", ["", "images"])
def test_folders_of_split_and_id_may_lie_in_image_root(tmp_path, inside):
    """They were looked for beside the data file alone."""
    place = tmp_path / "pics" / inside / "test" / "7"
    place.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(place / "image.png")
    problem = {"question": "Q?", "choices": ["a", "b"], "answer": 1, "image": "image.png", "split": "test", "hint": ""}
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "problems.json"
    file.write_text(json.dumps({"7": {**problem, "lecture": "l", "solution": "s"}}))
    (example,) = load_examples(file, "scienceqa", tmp_path / "pics")
    assert example.images == (str(place / "image.png"),)
