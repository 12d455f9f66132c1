"""docs/extending.md, done as it says on a copy of the package: files written, lines added, commands run."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import balanced_thinking
from balanced_thinking.demo.presets.twins import build_twin

HOME = Path(balanced_thinking.__file__).parent
PAGE = HOME.parents[1] / "docs" / "extending.md"


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    """A copy of the package with the page's files and lines in it."""
    package = tmp_path_factory.mktemp("copy") / "balanced_thinking"
    shutil.copytree(HOME, package, ignore=shutil.ignore_patterns("__pycache__"))
    for kind, text in blocks():
        if kind == "python":
            first, rest = text.split("\n", 1)
            place = package / first.removeprefix("# ")
            assert not place.exists()
            place.write_text(rest)
        elif kind == "diff":
            change(package, text)
    return package.parent


def blocks() -> list[tuple[str, str]]:
    return re.findall(r"```(python|diff|bash)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def change(package: Path, text: str) -> None:
    """Lines with "+" go behind the line before them, those with "-" away; every other one must be there."""
    first, *lines = text.strip("\n").split("\n")
    place = package / first.removeprefix("--- ")
    found, at = place.read_text().split("\n"), -1
    for line in lines:
        if line.startswith("+"):
            at += 1
            found.insert(at, line[1:])
            continue
        at = found.index(line[1:], at + 1)
        if line.startswith("-"):
            del found[at]
            at -= 1
    place.write_text("\n".join(found))


def run(command: str, extended: Path, folder: Path, *, code: int = 0) -> str:
    name, *arguments = shlex.split(command)
    assert name == "balanced"
    program = [sys.executable, "-m", "balanced_thinking.cli.main", *arguments]
    there = os.environ | {"PYTHONPATH": str(extended), "BALANCED_THINKING_BF16": "0"}
    done = subprocess.run(program, capture_output=True, text=True, env=there, cwd=folder, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout


def test_the_page_is_done_and_its_commands_run(extended, tmp_path):
    commands = [text.strip() for kind, text in blocks() if kind == "bash"]
    assert [command.split()[1] for command in commands] == ["check-data", "sft", "evaluate"]
    Image.new("RGB", (16, 16), "teal").save(tmp_path / "a.png")
    card = {"front": "Which colour?", "back": "teal", "why": "It is between green and blue.", "card": "a.png"}
    (tmp_path / "cards.jsonl").write_text("\n".join([json.dumps(card)] * 4))
    (tmp_path / "bad.jsonl").write_text("\n".join(map(json.dumps, [card, card | {"card": "b.png"}])))
    assert "format flashcards, since it has front and back" in run(commands[0], extended, tmp_path)
    bad = run(commands[0].replace("cards", "bad"), extended, tmp_path, code=2)
    assert "field card: no such picture: b.png" in bad
    tried = run(commands[1], extended, tmp_path)
    assert "2 steps went through on the twin of llava " in tried
    (tmp_path / "tally").mkdir()
    shutil.move(tmp_path / "a.png", tmp_path / "tally")
    asked = {"question": "How many?", "count": 3, "picture": "a.png"}
    (tmp_path / "tally/test.jsonl").write_text(json.dumps(asked))
    build_twin("qwen2_5_vl", tmp_path / "runs/any")
    assert re.search(r"of 1 \(exact match\), within_one [01].*malformed", run(commands[2], extended, tmp_path))
