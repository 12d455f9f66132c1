"""docs/own_data.md, run as it stands: every block, in a folder of its own."""

import json
import re
import shlex
from pathlib import Path

import balanced_thinking
from balanced_thinking.cli.main import main

PAGE = Path(balanced_thinking.__file__).parents[2] / "docs" / "own_data.md"


def test_the_page_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```(python|bash)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert [kind for kind, _ in blocks] == ["python", "bash", "bash", "bash", "python", "bash"]
    for kind, text in blocks:
        if kind == "python":
            exec(compile(text, str(PAGE), "exec"), {})
        else:
            name, *arguments = shlex.split(text)
            assert name == "balanced"
            assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "61 records, 60 can be used, 1 cannot" in printed
    assert "record line 62, field picture: no such picture: pictures/99.png" in printed
    left_out = [json.loads(line) for line in Path("mine/train.left_out.jsonl").read_text().splitlines()]
    assert [each["kind"] for each in left_out] == ["picture missing"]
    held_out = len(Path("mine/train.test.jsonl").read_text().splitlines())
    assert held_out + len(Path("mine/train.jsonl").read_text().splitlines()) == 60
    assert printed.count(f"% of {held_out} (exact match), malformed") == 2
    assert (Path("mine/scale") / "model.safetensors").is_file()
