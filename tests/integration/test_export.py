"""Exported tasks score as we do: by themselves in a bare interpreter, and through lmms-eval on a trained twin."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from balanced_thinking.cli.main import main
from balanced_thinking.data.records import load_examples, to_dataset
from balanced_thinking.demo.presets.twins import build_twin
from balanced_thinking.evaluation.evaluate import evaluate, find_benchmark, score
from balanced_thinking.evaluation.generation import Response
from trainers import train

COLOURS = ("red", "blue", "green", "teal")
RESPONSES = [
    "<think>t</think><answer>A</answer>",
    "<think>t</think><answer>(b) blue</answer>",
    "B",
    "<answer>B. blue</answer>",
    "<think>cut",
    "<think>t</think><answer>3.0</answer>",
    "<think>t</think><answer>blu</answer>",
    "",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """ScienceQA and IconQA in their published layouts, 24 and 24 questions, with traces in ScienceQA's fields."""
    folder = tmp_path_factory.mktemp("data")
    science, icons = {}, {}
    for n in range(24):
        colour, other = COLOURS[n % 4], COLOURS[(n + 1 + n // 4 % 3) % 4]
        places = {f"science/test/{n}/image.png", f"icons/test/choose_txt/{n}/image.png",
                  f"icons/test/fill_in_blank/{n}/image.png"}  # fmt: skip
        for place in places:
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), colour).save(folder / place)
        choices = [colour, other] if n % 3 else [other, colour]
        science[n] = {"question": "Hue?", "choices": choices, "answer": choices.index(colour), "hint": "", "image":
                      "image.png", "split": "test", "lecture": "", "solution": f"It is {colour}."}  # fmt: skip
        chosen = n // 4 % 2
        kind = "choose_txt" if chosen else "fill_in_blank"
        answer = choices.index(colour) if chosen else colour
        icons[n] = {"question": "Hue", "ques_type": kind, "choices": choices if chosen else None, "answer": answer,
                    "split": "test"}  # fmt: skip
    (folder / "science/problems.json").write_text(json.dumps(science))
    (folder / "icons/problems.json").write_text(json.dumps(icons))
    return folder


@pytest.fixture(scope="module")
def exported(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tasks") / "new"
    benchmarks = [f"scienceqa-img={data / 'science'}", f"iconqa={data / 'icons'}"]
    assert (
        main(["export", "lmms-eval", "--benchmark", *benchmarks, "--output_dir", str(folder), "--max_new_tokens", "64"])
        == 0
    )
    return folder


def test_it_scores_as_we_do_without_this_package(exported, data):
    """``utils.py`` runs in an interpreter that sees no package but Pillow's folder, and none of ours."""
    program = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("utils", sys.argv[1] + "/utils.py")
utils = importlib.util.module_from_spec(spec)
spec.loader.exec_module(utils)
found = []
for name in ("scienceqa-img", "iconqa"):
    for line in open(f"{sys.argv[1]}/questions/{name}.jsonl"):
        doc = json.loads(line)
        assert utils.visual(doc)[0].size == (16, 16)
        assert utils.messages(doc)[0]["content"][-1]["text"] == utils.text(doc)
        found.append([utils.score(doc, [response]) for response in json.loads(sys.argv[2])])
print(json.dumps(found))
"""
    pillow = str(Path(Image.__file__).parents[1])
    package = str(Path(sys.modules["balanced_thinking"].__file__).parents[1])
    code = f"import sys; sys.path[:] = [p for p in sys.path if p != {package!r}] + [{pillow!r}]\n{program}"
    told = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(exported), json.dumps(RESPONSES)],
        capture_output=True,
        text=True,
        check=True,
    )
    expected = []
    for benchmark in (f"scienceqa-img={data / 'science'}", f"iconqa={data / 'icons'}"):
        target = find_benchmark(benchmark)
        for n, question in enumerate(target.questions):
            rows = [score(n, question, response=Response(r, [], False, None, None, ""), rules=target.rules)
                    for r in RESPONSES]  # fmt: skip
            expected.append(
                [
                    {"exact_match": float(row["correct"]), "malformed": float(row["malformed"] is not None)}
                    | row.get("scores", {})
                    for row in rows
                ]
            )
    found = json.loads(told.stdout)
    assert found == expected
    assert len({json.dumps(line) for line in found}) > 4


def test_own_segments_and_columns_reach_the_tasks(tmp_path):
    """``utils.py`` reads what a model with stages of its own writes, of a file that needs to be told how to be read."""
    row = {"frage": "Hue?", "choices": ["red", "blue"], "answer": "B", "rationale": "r"}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row))
    given = ["export", "lmms-eval", "--benchmark", str(tmp_path / "mine.jsonl"), "--output_dir", str(tmp_path / "out")]
    assert main([*given, "--columns", '{"question": "frage"}', "--scale_segments", "llava-cot"]) == 0
    spec = importlib.util.spec_from_file_location("exported_utils", tmp_path / "out/utils.py")
    utils = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(utils)
    (doc,) = map(json.loads, (tmp_path / "out/questions/mine.jsonl").read_text().splitlines())
    stages = "".join(f"<{name}>x</{name}>" for name in ("SUMMARY", "CAPTION", "REASONING"))
    assert utils.score(doc, [f"{stages}<CONCLUSION>B</CONCLUSION>"]) == {"exact_match": 1.0, "malformed": 0.0}
    assert utils.score(doc, ["<think>x</think><answer>B</answer>"])["malformed"] == 1.0


def test_questions_within_conversations_are_refused(tmp_path, capsys):
    turns = [{"role": role, "content": text} for role, text in (("user", "1?"), ("assistant", "x"), ("user", "2?"))]
    (tmp_path / "talk.jsonl").write_text(json.dumps({"messages": turns, "answer": "y"}))
    given = ["export", "lmms-eval", "--benchmark", str(tmp_path / "talk.jsonl"), "--output_dir", str(tmp_path / "out")]
    assert main(given) == 2
    assert "talk asks within conversations, which the exported tasks cannot show" in capsys.readouterr().err


def test_a_folder_in_use_and_double_names_are_refused(exported, data, tmp_path, capsys):
    benchmark = f"scienceqa-img={data / 'science'}"
    assert main(["export", "lmms-eval", "--benchmark", benchmark, "--output_dir", str(exported)]) == 2
    assert "is not empty; name a new folder" in capsys.readouterr().err
    assert main(["export", "lmms-eval", "--benchmark", benchmark, benchmark, "--output_dir", str(tmp_path / "x")]) == 2
    assert "two benchmarks are called scienceqa-img" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    one = ["export", "lmms-eval", "--benchmark", benchmark, "--output_dir"]
    (tmp_path / "file").touch()
    for arguments, message in (
        ([str(tmp_path / "file")], "is a file; name a new folder"),
        ([str(tmp_path / "file" / "x")], "cannot be written"),
        ([str(tmp_path / "y"), "--answer_from", "boxed"], "answer_from is for data files, and none is asked for"),
        ([str(tmp_path / "a[1]")], "in a path mean something else to datasets"),
        ([str(tmp_path / "y"), "--limit", "-1"], "limit must be at least 1, not -1"),
        ([str(tmp_path / "y"), "--max_new_tokens", "0"], "max_new_tokens must be at least 1, not 0"),
    ):
        assert main([*one, *arguments]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.lmms_eval
def test_lmms_eval_gives_our_score_to_the_digit(exported, data, tmp_path, monkeypatch):
    monkeypatch.setenv("BALANCED_THINKING_BF16", "0")
    model = _trained_twin(data, tmp_path)
    ours = {
        name: evaluate(model, f"{name}={data / place}", output_dir=tmp_path / "ours", batch_size=1, max_new_tokens=64)
        for name, place in (("scienceqa-img", "science"), ("iconqa", "icons"))
    }
    tasks = ",".join(f"balanced_{name}" for name in ours)
    arguments = f"pretrained={model},dtype=float32,device_map=cpu"
    command = [os.environ["LMMS_EVAL_PYTHON"], "-m", "lmms_eval", "--include_path", str(exported), "--tasks", tasks,
               "--model", "llava_hf", "--model_args", arguments, "--batch_size", "1", "--device", "cpu",
               "--reasoning_tags", "none",
               "--output_path", str(tmp_path / "theirs"), "--log_samples"]  # fmt: skip
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=offline, cwd=tmp_path, check=False)
    files = list((tmp_path / "theirs").rglob("*_results.json"))
    assert len(files) == 1, done.stdout[-2000:] + done.stderr[-4000:]  # its exit code is 0 even where it failed
    theirs = json.loads(files[0].read_text())["results"]
    for name, row in ours.items():
        found = {key.split(",")[0]: value for key, value in theirs[f"balanced_{name}"].items()}
        print(name, row["accuracy"], row["malformed"], row.get("scores"), found)
        assert found["exact_match"] == row["accuracy"]
        assert found["malformed"] == row["malformed"]
        assert row.get("scores", {}) == {rule: found[rule] for rule in row.get("scores", {})}
    # Neither all right nor all wrong, or equality would say little.
    assert 0.1 < ours["scienceqa-img"]["accuracy"] < 1.0
    assert 0.0 < ours["iconqa"]["scores"]["anls"] < 1.0


def _trained_twin(data: Path, folder: Path) -> Path:
    """A LLaVA-NeXT that has learned the form, and some of the answers, without the doubled text start of lmms-eval."""
    twin = build_twin("llava_next", folder / "twin")
    tokenizer = json.loads((twin / "tokenizer.json").read_text())
    tokenizer["post_processor"] = None  # the chat template writes it; lmms-eval would write it twice
    (twin / "tokenizer.json").write_text(json.dumps(tokenizer))
    examples = list(load_examples(data / "science/problems.json"))
    examples += [asked.example for asked in find_benchmark(f"iconqa={data / 'icons'}").questions]
    examples = [example for example in examples if int(example.id) % 4 != 3]  # it has never seen teal
    settings = {"optim": "adamw_torch", "learning_rate": 5e-3, "max_grad_norm": 1.0, "logging_steps": 20}
    trainer = train(twin, to_dataset(examples), folder / "run", max_steps=30, per_device_train_batch_size=16,
                    scale_on_malformed="keep", **settings)  # fmt: skip
    trainer.save_model(str(folder / "model"))
    return folder / "model"
