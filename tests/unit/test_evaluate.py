"""Evaluation from a data file to metrics, resumed, refused and blanked, through a real tiny Qwen2.5-VL."""

import hashlib
import json
import shutil
import sys

import pytest
from PIL import Image

from balanced_thinking.core.segments import SegmentSpec
from balanced_thinking.data.example import Example
from balanced_thinking.data.records import to_trl_row
from balanced_thinking.errors import EvaluationError
from balanced_thinking.evaluation.benchmarks import BENCHMARKS, Benchmark
from balanced_thinking.evaluation.engine import Engine
from balanced_thinking.evaluation.evaluate import evaluate, find_benchmark, score
from balanced_thinking.evaluation.generation import Generator, Response
from balanced_thinking.evaluation.identity import model_identity, pictures_identity
from balanced_thinking.evaluation.metrics import decode_bits
from balanced_thinking.evaluation.question import Question
from balanced_thinking.runinfo import content_hash
from tiny import tiny_examples, tiny_qwen2_5_vl

CAP = 6


@pytest.fixture(scope="module", autouse=True)
def fp32():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BALANCED_THINKING_BF16", "0")
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_qwen2_5_vl(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A TRL-form data file of nine questions of all kinds, with pictures beside it."""
    root = tmp_path_factory.mktemp("data")
    rows = []
    for i, example in enumerate(tiny_examples(9)):
        name = f"{example.id}.png"
        Image.frombytes("RGB", (16, 16), bytes((7 * i + j) % 256 for j in range(768))).save(root / name)
        rows.append(to_trl_row(example) | {"images": [name]})
    (root / "shapes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root / "shapes.jsonl"


def run(folder, data, out, **settings):
    return evaluate(folder, data, **{"output_dir": out, "max_new_tokens": CAP, "progress": False, **settings})


def lines(out):
    return [json.loads(line) for line in (out / "predictions" / "shapes.jsonl").read_text().splitlines()]


def without_time(row):
    return {key: value for key, value in row.items() if key != "stages"}


@pytest.fixture(scope="module")
def whole(folder, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    return run(folder, data, out, batch_size=4), out


def test_row_and_files(whole, data):
    row, out = whole
    rows = lines(out)
    assert [line["index"] for line in rows] == list(range(9))
    assert [line["id"] for line in rows] == [f"tiny-{i:04d}" for i in range(9)]
    assert {line["kind"] for line in rows} == {"choice", "number", "text"}
    assert row["n"] == 9
    assert row["accuracy"] == sum(line["correct"] for line in rows) / 9
    assert decode_bits(row["correct"], 9).tolist() == [line["correct"] for line in rows]
    assert row["malformed"] == 1.0
    assert row["malformed_kinds"]["no-think"] > 0.5
    assert sum(source["n"] for source in row["sources"].values()) == 9
    (stage,) = row["stages"]
    assert stage["seconds"] > 0.0
    assert stage["cpu_seconds"] > 0.0
    assert 0 < stage["tokens"] <= 9 * CAP
    assert json.loads((out / "metrics" / "shapes.json").read_text()) == row
    assert rows[0]["images"][0].endswith("tiny-0000.png")


def test_finished_evaluation_returns_without_the_model(whole, folder, data, monkeypatch):
    row, out = whole
    monkeypatch.setattr(Engine, "generator", lambda *args, **named: pytest.fail("the model was loaded again"))
    assert run(folder, data, out) == row


@pytest.mark.parametrize("kept", [4, 9])
def test_stored_answers_are_scored_by_the_rules_of_today(whole, folder, data, tmp_path, capsys, kept):
    """Before, a file went on with the verdicts of the version that began it, so that a figure mixed two rules."""
    shutil.copytree(whole[1], tmp_path, dirs_exist_ok=True)
    old = [line | {"correct": not line["correct"], "malformed": None, "source": "old"} for line in lines(tmp_path)]
    path = tmp_path / "predictions" / "shapes.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in old[:kept]))
    assert without_time(run(folder, data, tmp_path, batch_size=4)) == without_time(whole[0])
    assert lines(tmp_path) == lines(whole[1])
    assert f"{kept} stored answers are scored otherwise by this version" in " ".join(capsys.readouterr().err.split())


class StoppedError(Exception):
    pass


def test_stopped_evaluation_goes_on_where_it_was(whole, folder, data, tmp_path, monkeypatch, capsys):
    batches = Generator.batches
    asked = []

    def stop_after_one(self, prompts):
        for batch in batches(self, prompts):
            asked.extend(prompts[i].id for i, _ in batch)
            yield batch
            raise StoppedError

    monkeypatch.setattr(Generator, "batches", stop_after_one)
    with pytest.raises(StoppedError):
        run(folder, data, tmp_path, batch_size=4)
    assert len(asked) == 4
    first = lines(tmp_path)
    # A kill in the middle of a line.
    path = tmp_path / "predictions" / "shapes.jsonl"
    path.write_text(path.read_text() + '{"index": 8, "id": "tiny-00')
    monkeypatch.setattr(Generator, "batches", batches)
    seconds = json.loads((tmp_path / "predictions" / "shapes.meta.json").read_text())["spent"]["seconds"]
    row = run(folder, data, tmp_path, batch_size=4)
    assert "torn off" in capsys.readouterr().err
    assert without_time(row) == without_time(whole[0])
    assert lines(tmp_path) == lines(whole[1])
    assert row["stages"][0]["seconds"] > seconds > 0.0
    assert all(line in lines(tmp_path) for line in first)


def test_line_end_lost_by_a_kill_loses_no_answer(whole, folder, data, tmp_path):
    run(folder, data, tmp_path, batch_size=4)
    path = tmp_path / "predictions" / "shapes.jsonl"
    path.write_text(path.read_text().rstrip("\n"))
    assert without_time(run(folder, data, tmp_path)) == without_time(whole[0])


def copied(whole, tmp_path):
    """The files of a finished evaluation; (predictions, settings)."""
    shutil.copytree(whole[1] / "predictions", tmp_path / "predictions")
    return tmp_path / "predictions" / "shapes.jsonl", tmp_path / "predictions" / "shapes.meta.json"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("tiny-0003", "café"),
        lambda text: text.replace("\n", "\n\n"),
        lambda text: text.rstrip("\n"),
    ],
    ids=["CRLF", "unescaped", "blank lines", "no line end"],
)
def test_nothing_is_called_torn_off_where_nothing_was_lost(whole, folder, data, tmp_path, capsys, change):
    path, _ = copied(whole, tmp_path)
    path.write_bytes(change(path.read_text()).encode())
    assert without_time(run(folder, data, tmp_path)) == without_time(whole[0])
    assert "torn off" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "a prediction must be an object, not list"),
        ("null", "a prediction must be an object, not null"),
        ("5", "a prediction must be an object, not int"),
        ("{}", "index must be the number of one of the 9 questions, from 0, not null"),
        ('{"index": 9}', "index must be .*, not 9"),
        ('{"index": -1}', "index must be .*, not -1"),
        ('{"index": true}', "index must be .*, not true"),
        ('{"index": [0]}', r"index must be .*, not \[0\]"),
        ('{"index": 0}', "source is missing"),
        ('{"index": 0, "source": "s", "correct": "yes"}', 'correct cannot be "yes"'),
        ("{'index': 0}", "not a line of JSON"),
        ("[" * 100_000, "not a line of JSON"),
        ("\ufffd".encode("utf-16").decode("latin-1"), "not a line of JSON"),
    ],
)
def test_a_line_that_is_no_prediction_is_named(whole, folder, data, tmp_path, line, message):
    path, _ = copied(whole, tmp_path)
    kept = path.read_text().splitlines()
    path.write_text("\n".join([*kept[:3], line, *kept[4:]]) + "\n", encoding="latin-1")
    with pytest.raises(
        EvaluationError, match=rf"shapes\.jsonl, line 4: {message}.*; delete the line to have"
    ) as caught:
        run(folder, data, tmp_path)
    assert "\n" not in str(caught.value)


def test_own_scores_must_be_those_of_the_benchmark(whole, folder, data, tmp_path):
    path, _ = copied(whole, tmp_path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row | {"scores": {"anls": 1.0}}) + "\n" for row in rows))
    with pytest.raises(EvaluationError, match=r"line 1: scores must hold a number for nothing, not \{\"anls\": 1.0\}"):
        run(folder, data, tmp_path)


@pytest.mark.parametrize(
    "meta",
    [
        "[]",
        "null",
        "{",
        "[" * 100_000,
        '{"config": [], "spent": SPENT}',
        '{"config": null, "spent": SPENT}',
        '{"config": CONFIG, "spent": {}}',
        '{"config": CONFIG, "spent": []}',
        '{"config": CONFIG}',
        '{"config": CONFIG, "spent": {"seconds": "1", "cpu_seconds": 1, "prompt_tokens": 1, "new_tokens": 1}}',
        '{"config": CONFIG, "spent": {"seconds": NaN, "cpu_seconds": 1, "prompt_tokens": 1, "new_tokens": 1}}',
    ],
)
def test_broken_settings_of_an_evaluation_are_named(whole, folder, data, tmp_path, meta):
    _, path = copied(whole, tmp_path)
    known = json.loads(path.read_text())
    path.write_text(meta.replace("CONFIG", json.dumps(known["config"])).replace("SPENT", json.dumps(known["spent"])))
    with pytest.raises(EvaluationError, match=r"shapes\.meta\.json is missing or cannot be read; delete shapes\.jsonl"):
        run(folder, data, tmp_path)


def test_segments_tell_one_evaluation_from_another(whole, folder, data, tmp_path):
    """Both ways; a file from before there was a choice counts as think and answer."""
    own = (SegmentSpec("why", "<think>", "</think>"), SegmentSpec("so", "<answer>", "</answer>"))
    run(folder, data, tmp_path / "own", limit=2, segments=own)
    with pytest.raises(EvaluationError, match=r'another segments \(\[\["why", .*, now null\)'):
        run(folder, data, tmp_path / "own", limit=2)
    with pytest.raises(EvaluationError, match=r"another segments \(null, now "):
        run(folder, data, whole[1], segments=own)
    _, path = copied(whole, tmp_path)
    known = json.loads(path.read_text())
    del known["config"]["segments"]
    path.write_text(json.dumps(known))
    assert run(folder, data, tmp_path) == whole[0]


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"max_new_tokens": 7}, "max_new_tokens (6, now 7)"),
        ({"blank_images": True}, "blank_images (false, now true)"),
        ({"system_prompt": "Think."}, 'system_prompt (null, now "Think.")'),
        ({"limit": 3}, "limit (null, now 3)"),
        ({"limit": 9}, "limit (null, now 9)"),
        ({"backend": "vllm"}, "backend"),
    ],
)
def test_other_settings_are_refused(whole, folder, data, settings, field):
    with pytest.raises(EvaluationError) as caught:
        run(folder, data, whole[1], **settings)
    assert field in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_model_is_refused_and_a_deleted_file_starts_anew(folder, data, tmp_path, tmp_path_factory):
    other = tiny_qwen2_5_vl(tmp_path_factory.mktemp("other"), seed=1)
    before = run(folder, data, tmp_path, limit=2)
    with pytest.raises(EvaluationError, match="another model"):
        run(other, data, tmp_path, limit=2)
    (tmp_path / "predictions" / "shapes.jsonl").unlink()
    assert run(other, data, tmp_path, limit=2)["model"] != before["model"]
    with pytest.raises(EvaluationError, match=r"was made with another limit \(2, now 3\); use another output_dir"):
        run(other, data, tmp_path, limit=3)
    (tmp_path / "predictions" / "shapes.meta.json").unlink()
    with pytest.raises(EvaluationError, match=r"delete shapes\.jsonl"):
        run(other, data, tmp_path, limit=2)


def test_loaded_model_gives_the_same_answers(whole, folder, data, tmp_path):
    from balanced_thinking.models.modeling import load_model

    pair = load_model(folder)
    row = run(pair, data, tmp_path, expects_think=False, seed=5)
    assert row["correct"] == whole[0]["correct"]
    assert [line["response"] for line in lines(tmp_path)] == [line["response"] for line in lines(whole[1])]
    assert (row["malformed"], row["malformed_kinds"], row["think_tokens"], row["seed"]) == (None, None, None, 5)
    assert model_identity(pair) == model_identity(load_model(folder))
    next(pair[0].parameters()).data += 1.0
    assert model_identity(pair) != model_identity(load_model(folder))


def test_blank_images_change_what_the_model_sees_and_nothing_else(folder, data, tmp_path, monkeypatch):
    seen = []
    encode = Generator._encode

    def watched(self, prompts, texts):
        seen.extend((prompt.images[0], text) for prompt, text in zip(prompts, texts, strict=True))
        return encode(self, prompts, texts)

    monkeypatch.setattr(Generator, "_encode", watched)
    run(folder, data, tmp_path / "seen", limit=3)
    run(folder, data, tmp_path / "blank", limit=3, blank_images=True)
    assert [text for _, text in seen[:3]] == [text for _, text in seen[3:]]
    for image, _ in seen[3:]:
        assert image.size == (16, 16)
        assert image.getcolors() == [(256, (128, 128, 128))]


def test_system_prompt_reaches_the_model(folder, data, tmp_path, monkeypatch):
    texts = []
    encode = Generator._encode
    monkeypatch.setattr(Generator, "_encode", lambda self, p, t: texts.extend(t) or encode(self, p, t))
    run(folder, data, tmp_path, limit=1, system_prompt="Think first.")
    assert texts[0].startswith("<|im_start|>system\nThink first.<|im_end|>\n<|im_start|>user")


def test_score_keeps_the_prefilled_tag():
    example = Example("q", "s", (), "Which?", ("x", "y"), None, "B", "choice")
    response = Response("t</think><answer>(b)</answer>", [], False, 1, 3, "<think>")
    row = score(3, Question(example), response=response, rules={})
    assert (row["correct"], row["malformed"], row["think"], row["answer"]) == (True, None, "t", "(b)")
    assert row["response"] == "<think>t</think><answer>(b)</answer>"


def test_unknown_benchmark_names_the_nearest():
    with pytest.raises(EvaluationError) as caught:
        find_benchmark("iconz")
    assert "did you mean icons?" in str(caught.value)
    assert "icons-unseen" in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "split", "name"), [("toy", "test", "toy"), ("toy:test", "test", "toy"), ("toy:val", "val", "toy-val")]
)
def test_a_benchmark_is_loaded_by_name_and_split(monkeypatch, asked, split, name):
    loaded = []
    toy = Benchmark("toy", "for tests", 33, ("val", "test"), lambda which: loaded.append(which) or tiny_examples(4))
    monkeypatch.setitem(BENCHMARKS, "toy", toy)
    target = find_benchmark(asked, limit=3)
    assert (loaded, target.name, target.max_new_tokens, len(target.questions)) == ([split], name, 33, 3)


def test_impossible_reference_is_found_before_the_model(tmp_path, folder):
    row = to_trl_row(tiny_examples(1)[0]) | {"images": [], "answer": "Z"}
    row["prompt"][0]["content"] = row["prompt"][0]["content"][1:]
    row["completion"][0]["content"] = "<answer>Z</answer>"
    (tmp_path / "bad.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match="Z"):
        run(folder, tmp_path / "bad.jsonl", tmp_path)


@pytest.mark.parametrize("settings", [{"backend": "tpu"}, {"limit": 0}, {"max_new_tokens": 0}, {"batch_size": 0}])
def test_bad_settings_are_one_line(folder, data, tmp_path, settings):
    with pytest.raises(EvaluationError) as caught:
        run(folder, data, tmp_path, **settings)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_vllm_is_asked_for_only_when_wanted(folder, data, tmp_path):
    if "vllm" not in sys.modules:
        with pytest.raises(EvaluationError, match="needs vLLM"):
            run(folder, data, tmp_path, backend="vllm")


def test_another_context_is_another_question(folder, data, tmp_path):
    """Predictions of one are not taken for the other's."""
    row = json.loads(data.read_text().splitlines()[0])
    path = tmp_path / "talk.jsonl"
    for before in ("one", "two"):
        turns = [{"role": "user", "content": before}, {"role": "assistant", "content": "x"}, *row["prompt"]]
        path.write_text(json.dumps({**row, "prompt": turns, "images": [str(data.parent / row["images"][0])]}))
        given = {
            "max_new_tokens": 4,
            "output_dir": tmp_path / "out",
            "progress": False,
            "reading": {"allow_outside": True},
        }
        if before == "one":
            evaluate(folder, path, **given)
            (line,) = (tmp_path / "out/predictions/talk.jsonl").read_text().splitlines()
            assert json.loads(line)["context"] == [["user", "one"], ["assistant", "x"]]
        else:
            with pytest.raises(EvaluationError, match=r"was made with other questions .its data file has"):
                evaluate(folder, path, **given)


@pytest.fixture
def moved(data, tmp_path):
    """The data file and its pictures in a folder of their own; other pictures of the same names in ``other``."""
    shutil.copytree(data.parent, tmp_path / "data")
    (tmp_path / "data" / "other").mkdir()
    for picture in data.parent.glob("*.png"):
        Image.new("RGB", (16, 16)).save(tmp_path / "data" / "other" / picture.name)
    return tmp_path / "data"


def test_other_pictures_are_another_evaluation(whole, folder, moved):
    """Figures of the first pictures once came back for the others; a folder that was only moved is the same."""
    assert run(folder, moved / "shapes.jsonl", whole[1]) == whole[0]
    with pytest.raises(EvaluationError, match="was made with other pictures; use another") as caught:
        run(folder, moved / "shapes.jsonl", whole[1], reading={"image_root": str(moved / "other")})
    assert "\n" not in str(caught.value)


def test_pictures_that_were_shown_otherwise_are_other_pictures(moved):
    """Transparent ones were black in earlier versions: what was answered then is no part of a figure now."""
    made = {"RGB": "", "RGBA": " on white", "I;16": " scaled"}
    for mode, how in made.items():
        Image.new(mode, (4, 4)).save(moved / "picture.png")
        data = (moved / "picture.png").read_bytes()
        told = content_hash([hashlib.sha256(data).hexdigest() + how])
        assert pictures_identity([("r", [data])]) == pictures_identity([("r", [moved / "picture.png"])]) == told


def test_another_template_is_another_evaluation(whole, folder, data, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    template = tmp_path / "model" / "chat_template.jinja"
    template.write_text(template.read_text() + "so: ")
    with pytest.raises(EvaluationError, match="was made with another chat template or other settings of the proc"):
        run(tmp_path / "model", data, whole[1])


def test_files_from_before_there_were_fingerprints_are_taken(whole, folder, data, tmp_path):
    _, path = copied(whole, tmp_path)
    known = json.loads(path.read_text())
    for name in ("pictures", "rendering", "dtype", "backend_options", "chat_template_kwargs"):
        del known["config"][name]
    path.write_text(json.dumps(known))
    assert run(folder, data, tmp_path) == whole[0]


def test_a_run_folder_is_asked_as_it_was_trained(folder, data, tmp_path, monkeypatch, capsys):
    """Its system prompt and template options were once left out; an explicit empty one leaves them out."""
    trained = tmp_path / "run"
    shutil.copytree(folder, trained)
    template = trained / "chat_template.jinja"
    template.write_text(template.read_text() + "{% if add_generation_prompt and brief %}{{ brief }}{% endif %}")
    config = {"system_prompt": "Think first.", "chat_template_kwargs": {"brief": "<think></think>"}}
    (trained / "run.json").write_text(json.dumps({"config": config}))
    texts = []
    encode = Generator._encode
    monkeypatch.setattr(Generator, "_encode", lambda self, p, t: texts.extend(t) or encode(self, p, t))
    run(trained, data, tmp_path / "as-trained", limit=1)
    assert texts[0].startswith("<|im_start|>system\nThink first.<|im_end|>\n<|im_start|>user")
    assert texts[0].endswith("assistant\n<think></think>")
    assert lines(tmp_path / "as-trained")[0]["response"].startswith("<think></think>")
    assert "'Think first.', with which the model was trained" in capsys.readouterr().err
    run(trained, data, tmp_path / "plain", limit=1, system_prompt="", chat_template_kwargs={})
    assert texts[1].startswith("<|im_start|>user")
    assert texts[1].endswith("assistant\n")
    assert "trained" not in capsys.readouterr().err


@pytest.mark.parametrize("place", ["file/out", "out"])
def test_a_folder_that_cannot_be_written_is_one_line(folder, data, tmp_path, place):
    (tmp_path / "file").write_text("")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predictions").write_text("")
    with pytest.raises(
        EvaluationError, match=r"meta\.json cannot be written \(.*\); choose another output_dir"
    ) as caught:
        run(folder, data, tmp_path / place)
    assert "\n" not in str(caught.value)
