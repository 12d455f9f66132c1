"""``balanced evaluate`` through the real command: several benchmarks, interrupted, and faults in one line."""

import json
import shutil

import pytest

from balanced_thinking.cli.main import main
from balanced_thinking.data.records import to_trl_row
from balanced_thinking.evaluation.vllm_backend import VllmEngine
from balanced_thinking.models import modeling
from tiny import tiny_examples


@pytest.fixture
def files(tmp_path):
    """Two data files of two questions each, which share their pictures."""
    paths = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    for path in paths:
        rows = []
        for example in tiny_examples(2):
            row = to_trl_row(example)
            row["images"][0].save(tmp_path / f"{example.id}.png")
            rows.append({**row, "images": [f"{example.id}.png"]})
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(path) for path in paths]


def command(model, out, *benchmarks):
    named = ["--model", str(model), "--output_dir", str(out), "--max_new_tokens", "4"]
    return ["evaluate", *named, "--benchmark", *benchmarks]


def test_benchmarks_may_be_added_and_dropped(tiny_folder, files, tmp_path, monkeypatch, capsys):
    """A command that named two was once another model to one that named one; each loads the model once, or not."""
    loads, load = [], modeling.load_model
    monkeypatch.setattr(modeling, "load_model", lambda name, **how: loads.append(name) or load(name, **how))
    out = tmp_path / "out"
    assert main(command(tiny_folder, out, *files)) == 0
    assert len(loads) == 1
    told = capsys.readouterr().out
    (out / "metrics" / "two.json").unlink()
    for path in files:
        assert main(command(tiny_folder, out, path)) == 0
    assert main(command(tiny_folder, out, *reversed(files))) == 0
    assert len(loads) == 1, "a finished evaluation needs no model"
    assert told.splitlines()[0] in capsys.readouterr().out
    assert json.loads((out / "metrics" / "two.json").read_text())["model"] == str(tiny_folder)


def test_all_files_are_opened_before_the_first_is_scored(tiny_folder, files, tmp_path, capsys):
    (tmp_path / "broken.jsonl").write_text('{"prompt": "How many?"}\n')
    assert main(command(tiny_folder, tmp_path / "out", files[0], str(tmp_path / "broken.jsonl"))) == 2
    assert "broken.jsonl, record line 1, field completion: neither" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_file_of_other_segments_is_opened_as_the_model_writes(tiny_folder, tmp_path, capsys):
    (tmp_path / "own.jsonl").write_text(
        json.dumps({"prompt": "Q?", "completion": "<plan>p</plan><final>0</final>"}) + "\n"
    )
    own = '[["plan", "<plan>", "</plan>"], ["final", "<final>", "</final>"]]'
    told = command(tiny_folder, tmp_path / "a", str(tmp_path / "own.jsonl"))
    assert main([*told, "--scale_segments", own]) == 0
    shutil.copytree(tiny_folder, tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(json.dumps({"config": {"scale_segments": json.loads(own)}}))
    assert main(command(tmp_path / "run", tmp_path / "b", str(tmp_path / "own.jsonl"))) == 0


def test_what_the_run_folder_adds_is_said_once_and_can_be_left_out(tiny_folder, files, tmp_path, capsys):
    model = tmp_path / "run"
    shutil.copytree(tiny_folder, model)
    (model / "run.json").write_text(json.dumps({"config": {"system_prompt": "Look."}}))

    def asked(out):
        return json.loads((out / "predictions" / "one.meta.json").read_text())["config"]["system_prompt"]

    assert main(command(model, tmp_path / "a", *files)) == 0
    told = capsys.readouterr()
    assert (told.out + told.err).count("system_prompt 'Look.', with which the model was trained") == 1
    assert asked(tmp_path / "a") == "Look."
    assert main([*command(model, tmp_path / "b", *files), "--system_prompt", ""]) == 0
    told = capsys.readouterr()
    assert "trained" not in told.out + told.err
    assert asked(tmp_path / "b") is None


def test_options_of_vllm_reach_it(tiny_folder, files, tmp_path, monkeypatch, capsys):
    made = []
    monkeypatch.setattr(VllmEngine, "__init__", lambda self, model, options: made.append((model, options)) or 1 / 0)
    options = ["--backend", "vllm", "--dtype", "float16", "--backend_options", '{"tensor_parallel_size": 2}']
    with pytest.raises(ZeroDivisionError):
        main([*command(tiny_folder, tmp_path / "out", files[0]), *options])
    assert made == [(str(tiny_folder), {"dtype": "float16", "tensor_parallel_size": 2})]


def without_template(folder, tmp_path):
    (folder / "chat_template.jinja").unlink()
    return []


FAULTS = {
    "no chat template": (without_template, "has no chat template"),
    "output below a file": (
        lambda folder, tmp_path: ["--output_dir", str(folder / "config.json" / "out")],
        "cannot be written (Not a directory)",
    ),
    "options without vllm": (
        lambda folder, tmp_path: ["--backend_options", '{"max_model_len": 9}'],
        "backend_options are for backend 'vllm'",
    ),
    "options that are no JSON": (lambda *_: ["--backend_options", "max_model_len=9"], "must be a JSON object"),
    "options that are a list": (lambda *_: ["--chat_template_kwargs", "[1]"], "must be a JSON object"),
    "an unknown dtype": (lambda *_: ["--dtype", "int3"], "unknown dtype 'int3'"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_line(tiny_folder, files, tmp_path, capsys, name):
    spoil, words = FAULTS[name]
    model = tmp_path / "model"
    shutil.copytree(tiny_folder, model)
    more = spoil(model, tmp_path)
    assert main([*command(model, tmp_path / "out", files[0]), *more]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("balanced: ")]
    assert words in line
    assert ";" in line, f"no remedy in: {line}"
