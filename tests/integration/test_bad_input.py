"""Bad data through the real command: one line with file, record and remedy, exit code 2, no training step."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from balanced_thinking.cli.main import main
from balanced_thinking.data.records import to_trl_row
from tiny import tiny_examples

GOOD = "<think>one two</think><answer>red</answer>"
TORN = b'{"prompt": "a", "completion": "<think>b</think><answer>c</answer>"}\n{"prompt": "a", "comp'


def rows(folder: Path) -> list[dict]:
    (folder / "images").mkdir(parents=True)
    found = []
    for example in tiny_examples(4):
        row = to_trl_row(example)
        row["images"][0].save(folder / "images" / f"{example.id}.png")
        found.append({**row, "images": [f"images/{example.id}.png"], "choices": None, "kind": "text", "answer": "red"})
        found[-1]["completion"] = response(GOOD)
    return found


def response(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


def unreadable_picture(folder, data):
    (folder / data[2]["images"][0]).write_bytes(b"not a picture")


def missing_picture(folder, data):
    (folder / data[2]["images"][0]).unlink()


def thin_picture(folder, data):
    """A ruler, say: Qwen's processors refuse sides of more than 1 to 200."""
    Image.new("RGB", (2000, 2)).save(folder / data[2]["images"][0])


def two_pictures_one_mark(folder, data):
    data[2]["images"] = [data[2]["images"][0], data[1]["images"][0]]


FAULTS = {
    "missing answer": (lambda folder, data: data[2].update(completion=response("<think>a</think>")), "answer"),
    "repeated segment": (
        lambda folder, data: data[2].update(completion=response(GOOD + "<answer>blue</answer>")),
        "<answer> occurs 2 times|answer",
    ),
    "unclosed think": (
        lambda folder, data: data[2].update(completion=response("<think>a <answer>b</answer>")),
        "think",
    ),
    "unknown tags": (
        lambda folder, data: data[2].update(completion=response("<reason>a</reason><result>red</result>")),
        "think|answer",
    ),
    "empty answer": (
        lambda folder, data: data[2].update(completion=response("<think>a</think><answer> </answer>"), answer=None),
        "answer",
    ),
    "unreadable picture": (unreadable_picture, "picture|image"),
    "missing picture": (missing_picture, "picture|image"),
    "a line for a picture": (thin_picture, "the model's processor refuses a picture of 2000 x 2 "),
    "marks and pictures differ": (two_pictures_one_mark, "picture|image"),
    "picture token in the response": (
        lambda folder, data: data[2].update(
            completion=response("<think>the <|image_pad|> is red</think><answer>a</answer>")
        ),
        "2 picture tokens <|image_pad|> in the text that the model reads, but 1 picture",
    ),
    "picture token in the choices": (
        lambda folder, data: data[2].update(
            choices=["the <|image_pad|> mark", "red"],
            kind="choice",
            answer="red",
            completion=response("<think>a</think><answer>B</answer>"),
        ),
        "2 picture tokens <|image_pad|>",
    ),
    "answer lost to length": (
        lambda folder, data: data[2].update(
            completion=response(f"<think>{'one two ' * 400}</think><answer>a</answer>")
        ),
        "max_length",
    ),
}


def command(model: Path, data: Path, output: Path) -> list[str]:
    return [
        "sft", "--model_name_or_path", str(model), "--dataset", str(data), "--output_dir", str(output),
        "--max_steps", "1", "--bf16", "false", "--max_length", "400",
    ]  # fmt: skip


def check(capsys, code: int, path: Path, output: Path, record: str, words: str) -> None:
    error = capsys.readouterr().err.strip().splitlines()
    assert code == 2, error
    line = error[-1]
    assert line.startswith("balanced: ")
    assert path.name in line
    assert record in line
    assert any(word in line for word in words.split("|")), line
    assert ";" in line, f"no remedy in: {line}"
    assert not (output / "metrics.jsonl").exists()


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_record_is_named(tiny_folder, tmp_path, capsys, name):
    spoil, words = FAULTS[name]
    data = rows(tmp_path)
    spoil(tmp_path, data)
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, data)) + "\n", encoding="utf-8")
    code = main(command(tiny_folder, path, tmp_path / "run"))
    check(capsys, code, path, tmp_path / "run", "tiny-0002", words)


@pytest.mark.parametrize("verb", ["sft lazily", "grpo", "evaluate"])
def test_a_picture_that_the_processor_refuses_is_named(tiny_folder, tmp_path, capsys, verb):
    """Before, a traceback without record or file, of GRPO and evaluation and of rows that were not checked ahead."""
    data = rows(tmp_path)
    thin_picture(tmp_path, data)
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, data)) + "\n", encoding="utf-8")
    told = command(tiny_folder, path, tmp_path / "run")
    if verb == "sft lazily":
        told += ["--scale_check", "lazy", "--per_device_train_batch_size", "4"]
    elif verb == "grpo":
        told = [*told[:-2], "--per_device_train_batch_size", "2", "--num_generations", "2"]
        told[0] = "grpo"
    else:
        told = ["evaluate", "--model", str(tiny_folder), "--benchmark", str(path), "--output_dir", str(tmp_path / "e")]
    assert main(told) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "record tiny-0002" in line
    assert "refuses a picture of 2000 x 2 (absolute aspect ratio" in line
    assert line.endswith("; crop or pad it, or leave the row out")


@pytest.mark.parametrize("where", ["b", "val"])
def test_a_faulty_row_is_looked_for_in_its_own_file(tiny_folder, tmp_path, capsys, where):
    """Among two files of one name, and in the evaluation set, whose rows the training files know nothing of."""
    files = []
    for folder in ("a", "b", "val"):
        (tmp_path / folder).mkdir()
        data = rows(tmp_path / folder)
        if folder == where:
            data[2]["completion"] = response(f"<think>{'one two ' * 400}</think><answer>a</answer>")
        files.append(tmp_path / folder / "train.jsonl")
        files[-1].write_text("\n".join(map(json.dumps, data)) + "\n", encoding="utf-8")
    arguments = command(tiny_folder, files[0], tmp_path / "run")
    assert main([*arguments[:5], str(files[1]), "--eval_dataset", str(files[2]), *arguments[5:]]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{tmp_path / where / 'train.jsonl'}, record tiny-0002#" in line
    assert line.count("train.jsonl") == 1


@pytest.mark.parametrize(
    ("content", "record", "words"),
    [
        (b"", "", "empty|no record|no example"),
        (
            b'{"prompt": "a", "completion": "<think>b</think><answer>c</answer>"}\n{"prompt": "a", "comp',
            "2",
            "middle of a record",
        ),
        (b'{"prompt": "\xff\xfe"}\n', "1", "UTF-8"),
        (b'{"question": "a"}\n', "", "format|key|column|field"),
    ],
    ids=["empty", "half a line", "not UTF-8", "unknown keys"],
)
def test_a_broken_file_is_named(tiny_folder, tmp_path, capsys, content, record, words):
    path = tmp_path / "train.jsonl"
    path.write_bytes(content)
    code = main(command(tiny_folder, path, tmp_path / "run"))
    check(capsys, code, path, tmp_path / "run", record, words)


def test_a_model_that_is_not_there_is_named_before_anything_is_prepared(tmp_path, capsys):
    command = [
        "evaluate",
        "--model",
        str(tmp_path / "none"),
        "--benchmark",
        "icons",
        "--output_dir",
        str(tmp_path / "out"),
    ]
    assert main(command) == 2
    assert f"there is no model folder {tmp_path / 'none'}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--model", "nosuch", "--benchmark", "icons"],
            "there is no model folder and no preset 'nosuch'.*hub id, give",
        ),
        (
            ["--model", "tiny-qwen2_5_vl", "--benchmark", "icons"],
            "give --output_dir: the model tiny-qwen2_5_vl is a pre",
        ),
        (["--model", "tiny-gemma3", "--benchmark", "nosuchbench", "--output_dir", "out"], "is called 'nosuchbench'"),
        (
            ["--model", "tiny-gemma3", "--benchmark", "icons", "--output_dir", "out", "--chat_template_kwargs", "{"],
            "chat_template_kwargs must be a JSON object",
        ),
        (
            ["--model", "tiny-gemma3", "--benchmark", "icons", "--output_dir", "out", "--dtype", "f"],
            "unknown dtype 'f'",
        ),
        (["--model_name_or_path", "m", "--benchmark", "icons"], "did you mean --model?"),
    ],
)
def test_evaluate_names_the_real_fault_before_a_preset_is_built(tmp_path, monkeypatch, capsys, arguments, words):
    """A preset that does not ship was built for half an hour before the benchmark's name was looked at."""
    from balanced_thinking.demo import presets

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(presets, "build", lambda *_, **__: pytest.fail("a preset was built"))
    assert main(["evaluate", *arguments]) == 2
    assert re.search(words, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list", "foo", "bar"], "presets list takes no names, but 'foo' is given"),
        (["path", "tiny-qwen2_5_vl", "folder"], "presets path takes one name, but 'folder' is given too"),
        (
            ["build", "tiny-qwen2_5_vl", "file/x"],
            "file cannot be written .Not a directory|file cannot be written .File",
        ),
        (["build", "tiny-qwen2_5_vl", "file"], "file is a file; name a new folder"),
    ],
)
def test_presets_refuses_what_it_would_drop_or_fail_at_after_hours(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    assert main(["presets", *arguments]) == 2
    assert re.search(words, capsys.readouterr().err)


def test_files_of_the_user_are_left_alone_and_the_first_fault_is_named_first(tiny_folder, tmp_path, capsys):
    data = rows(tmp_path)
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, data)) + "\n", encoding="utf-8")
    (tmp_path / "README.md").write_text("mine")
    assert main(command(tiny_folder, path, tmp_path)) == 2
    assert "holds README.md, which the run would replace; choose another" in capsys.readouterr().err
    assert (tmp_path / "README.md").read_text() == "mine"
    used = tmp_path / "used"
    used.mkdir()
    (used / "run.json").write_text(json.dumps({"config": {"seed": 7}, "finished": True}))
    assert main(command(tiny_folder, tmp_path / "nothere.jsonl", used)) == 2
    assert "nothere.jsonl: no such file; check the path" in capsys.readouterr().err
    assert main(command(tmp_path / "nomodel", path, used)) == 2
    assert f"there is no model folder {tmp_path / 'nomodel'}" in capsys.readouterr().err
    assert main(command(tiny_folder, path, used)) == 2
    assert "holds a run with other settings" in capsys.readouterr().err
