"""Published benchmarks: question texts frozen, layouts as published and as on the hub, own scores by hand."""

import io
import json
import re
import shutil
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset, Features, List, Value
from datasets import Image as HubImage
from PIL import Image

from balanced_thinking.cli.main import main
from balanced_thinking.data.example import Example
from balanced_thinking.data.prompts import render_question
from balanced_thinking.demo.presets.twins import build_twin
from balanced_thinking.errors import DataError, EvaluationError
from balanced_thinking.evaluation import rules
from balanced_thinking.evaluation.benchmarks import ask, check_reading, open_first
from balanced_thinking.evaluation.benchmarks.published import PUBLISHED
from balanced_thinking.evaluation.evaluate import find_benchmark
from balanced_thinking.evaluation.question import Question


def png(size=(12, 10)):
    file = io.BytesIO()
    Image.new("RGB", size, "teal").save(file, "PNG")
    return file.getvalue()


def picture(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(png())


def encoded():
    return {"bytes": png(), "path": None}


def parquet(folder: Path, name: str, rows: list[dict]) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / name)


def write_json(folder: Path, name: str, value) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(value))


SCIENCE = {"question": "Which is larger?", "choices": ["an ant", "a cow"], "answer": 1, "hint": "Animals differ.",
           "lecture": "Size.", "solution": "Cows are larger."}  # fmt: skip
SCIENCE_TEXT = "Context: Animals differ.\nWhich is larger?\nA. an ant\nB. a cow"
ICON_LEAD = "Given a set of images and a question, please provide the answer to the question.\nQuestion: "
VISTA = {"pid": "7", "question": "How long is the side?", "unit": "cm", "precision": 1.0, "answer_type": "float",
         "question_type": "free_form", "choices": None, "answer": "1.5", "image": "images/7.jpg"}  # fmt: skip
AOK = {"split": "val", "image_id": 42, "question_id": "q42", "question": "What is he riding?",
       "choices": ["bike", "horse", "bus", "sled"], "correct_choice_idx": 1,
       "direct_answers": ["horse"] * 6 + ["pony"] * 3 + ["mare"], "rationales": ["r"]}  # fmt: skip
MMMU_ROW = {"id": "validation_Art_1", "question": "Which <image 1> matches <image 2>?", "answer": "B",
            "options": "['left', '<image 3>']", "question_type": "multiple-choice",
            **{f"image_{number}": None for number in range(1, 8)}}  # fmt: skip


def science(folder):
    problems = {"11": SCIENCE | {"image": "image.png", "split": "test"},
                "12": SCIENCE | {"image": None, "split": "test"},
                "13": SCIENCE | {"image": None, "split": "train"}}  # fmt: skip
    write_json(folder, "problems.json", problems)
    picture(folder, "test/11/image.png")


def science_hub(folder):
    parquet(folder, "ScienceQA-IMG/test-00000-of-00001-ab.parquet", [SCIENCE | {"image": encoded()}])
    parquet(folder, "ScienceQA-IMG/train-00000-of-00001-ab.parquet", [SCIENCE | {"image": encoded()}] * 3)


def icons(folder):
    problems = {
        "5": {"question": "How many?", "ques_type": "fill_in_blank", "answer": "3", "split": "test"},
        "6": {"question": "Which?", "ques_type": "choose_txt", "choices": ["up", "down"], "answer": 1, "split": "test"},
        "7": {"question": "Next", "ques_type": "choose_img", "choices": ["choice_0.png", "choice_1.png"], "answer": 0,
              "split": "test"},
        "8": {"question": "Other split", "ques_type": "fill_in_blank", "answer": "3", "split": "val"},
    }  # fmt: skip
    write_json(folder, "problems.json", problems)
    for place in ("fill_in_blank/5/image", "choose_txt/6/image", "choose_img/7/image", "choose_img/7/choice_0",
                  "choose_img/7/choice_1"):  # fmt: skip
        picture(folder, f"test/{place}.png")


def icons_hub(folder):
    none = {"choice_image_0": None, "choice_image_1": None, "query_image": encoded()}
    rows = [
        none
        | {"question_id": "5", "question": "How many?", "ques_type": "fill_in_blank", "choices": "", "answer": "3"},
        none
        | {"question_id": "6", "question": "Which?", "ques_type": "choose_txt", "choices": "up,down", "answer": "down"},
        none
        | {"question_id": "7", "question": "Next", "ques_type": "choose_img", "choices": "choice_0.png,choice_1.png",
           "answer": "choice_0.png", "choice_image_0": encoded(), "choice_image_1": encoded()},
    ]  # fmt: skip
    parquet(folder, "data/test-00000-of-00002.parquet", rows[:2])
    parquet(folder, "data/test-00001-of-00002.parquet", rows[2:])


def chart(folder):
    for part, label in (("human", "12.5%"), ("augmented", "Chad")):
        write_json(folder, f"test/test_{part}.json", [{"imgname": "1.png", "query": "How much?", "label": label}])
    picture(folder, "test/png/1.png")


def chart_hub(folder):
    rows = [{"type": f"{part}_test", "question": "How much?", "answer": label, "image": encoded()}
            for part, label in (("augmented", "Chad"), ("human", "12.5%"))]  # fmt: skip
    parquet(folder, "data/test-00000-of-00001.parquet", rows)


def vista(folder):
    write_json(folder, "testmini.json", {"7": VISTA, "8": VISTA | {"pid": "8", "unit": None, "choices": ["x", "y"],
               "answer": "y", "question_type": "multi_choice", "answer_type": "text"}})  # fmt: skip
    picture(folder, "images/7.jpg")


def mmmu(folder):
    shown = {"image_1": encoded(), "image_2": encoded(), "image_3": encoded()}
    parquet(folder, "Art/validation-00000-of-00001.parquet", [MMMU_ROW | shown])
    open_ended = {"id": "validation_Math_9", "question": "<image 1> Value?", "options": "[]",
                  "answer": "['24/7', '3.43']", "question_type": "open", "image_1": encoded()}  # fmt: skip
    parquet(folder, "Math/validation-00000-of-00001.parquet", [MMMU_ROW | open_ended])


def m3cot(folder):
    row = {"id": "m-1", "question": "Who?", "context": "At sea.", "choices": ["a cook", "a sailor"], "answer": "B",
           "rationale": "Sailors sail.", "image": "images/m-1.png"}  # fmt: skip
    (folder / "test.jsonl").write_text(json.dumps(row))
    picture(folder, "images/m-1.png")


def aok(folder):
    write_json(folder, "aokvqa_v1p0_val.json", [AOK])
    picture(folder, "val2017/000000000042.jpg")


def aok_hub(folder):
    row = {name: value for name, value in AOK.items() if name not in ("split", "image_id")}
    row |= {"image": encoded(), "direct_answers": str(AOK["direct_answers"])}
    parquet(folder, "data/validation-00000-of-00001.parquet", [row])


def ai2d(folder):
    row = {"question": "What eats krill?", "options": ["kelp", "whale"], "answer": "1", "image": encoded()}
    parquet(folder, "data/test-00000-of-00001.parquet", [row])


# benchmark, layout -> (text, answer, kind, further right answers, pictures, source) of each question.
FROZEN = {
    ("scienceqa", science): [
        (SCIENCE_TEXT, "B", "choice", (), 1, "scienceqa"),
        (SCIENCE_TEXT, "B", "choice", (), 0, "scienceqa"),
    ],
    ("scienceqa-img", science): [(SCIENCE_TEXT, "B", "choice", (), 1, "scienceqa")],
    ("scienceqa-img", science_hub): [(SCIENCE_TEXT, "B", "choice", (), 1, "scienceqa")],
    ("iconqa", icons): (
        icon_questions := [
            (ICON_LEAD + "How many?.", "3", "number", (), 1, "iconqa/fill_in_blank"),
            (ICON_LEAD + "Which?.\nOptions:\nA. up\nB. down", "B", "choice", (), 1, "iconqa/choose_txt"),
            (
                ICON_LEAD + "Next.\nOptions:\nA. The first image.\nB. The second image.",
                "A",
                "choice",
                (),
                3,
                "iconqa/choose_img",
            ),
        ]
    ),
    ("iconqa", icons_hub): icon_questions,
    ("ai2d", ai2d): [("What eats krill?\nA. kelp\nB. whale", "B", "choice", (), 1, "ai2d")],
    ("chartqa", chart): (
        chart_questions := [
            ("How much?", "Chad", "text", (), 1, "chartqa/augmented"),
            ("How much?", "12.5%", "number", (), 1, "chartqa/human"),
        ]
    ),
    ("chartqa", chart_hub): chart_questions,
    ("mathvista", vista): [
        ("How long is the side? (Unit: cm)", "1.5", "number", (), 1, "mathvista/free_form"),
        ("How long is the side?\nA. x\nB. y", "B", "choice", (), 1, "mathvista/multi_choice"),
    ],
    ("mmmu", mmmu): [
        ("Which <image 1> matches <image 2>?\nA. left\nB. <image 3>", "B", "choice", (), 3, "mmmu/Art"),
        ("<image 1> Value?", "24/7", "text", ("3.43",), 1, "mmmu/Math"),
    ],
    ("m3cot", m3cot): [("At sea.\nWho?\nA. a cook\nB. a sailor", "B", "choice", (), 1, "m3cot")],
    ("a-okvqa", aok): (
        aok_questions := [("What is he riding?\nA. bike\nB. horse\nC. bus\nD. sled", "B", "choice", (), 1, "a-okvqa")]
    ),
    ("a-okvqa", aok_hub): aok_questions,
    ("a-okvqa-direct", aok): [("What is he riding?", "horse", "text", ("pony", "mare"), 1, "a-okvqa-direct")],
}


@pytest.mark.parametrize(("name", "layout"), FROZEN, ids=lambda part: getattr(part, "__name__", part))
def test_question_texts_are_frozen(name, layout, tmp_path):
    layout(tmp_path)
    target = find_benchmark(f"{name}={tmp_path}")
    told = [
        (render_question(e.question, e.choices), e.answer, e.kind, asked.also, len(e.images), e.source)
        for asked in target.questions
        for e in [asked.example]
    ]
    assert told == FROZEN[name, layout]
    assert (target.name, target.rules) == (name, PUBLISHED[name].rules)
    assert target.max_new_tokens >= 1024


def test_every_published_benchmark_is_frozen():
    assert {name for name, _ in FROZEN} == set(PUBLISHED)


def test_names_of_files_and_splits(tmp_path):
    science(tmp_path)
    assert ask(f"scienceqa:train={tmp_path}").name == "scienceqa-train"
    assert [asked.example.id for asked in ask(f"scienceqa:train={tmp_path}").load()] == ["13"]
    assert [asked.example.id for asked in ask(f"scienceqa={tmp_path / 'problems.json'}").load()] == ["11", "12"]
    with pytest.raises(
        EvaluationError, match=r"scienceqa has no split 'vall'; did you mean val\? .there are test, val, train.$"
    ):
        ask("scienceqa:vall")
    with pytest.raises(EvaluationError, match=r"no data file is called 'sciencqa=x'; did you mean scienceqa\?"):
        ask("sciencqa=x")
    with pytest.raises(EvaluationError, match=r"mmmu: '/nowhere' does not exist; give the folder"):
        ask("mmmu=/nowhere")
    with pytest.raises(
        EvaluationError,
        match=r"none of the benchmark's files; looked for test/test_augmented.json, test/test_human.json, \*/test",
    ):
        list(ask(f"chartqa={tmp_path}").load())


@pytest.mark.parametrize("gone", ["test_human.json", "test_augmented.json"])
def test_half_of_chartqa_is_not_the_benchmark(tmp_path, gone):
    chart(tmp_path)
    file = next(tmp_path.rglob(gone))
    file.write_text("[]")
    with pytest.raises(DataError, match=f"{gone}: the file holds no records"):
        list(ask(f"chartqa={tmp_path}").load())
    file.unlink()
    with pytest.raises(EvaluationError, match=f"holds a part of the benchmark only; test/{gone} is missing"):
        list(ask(f"chartqa={tmp_path}").load())


def test_without_a_folder_the_hub_is_asked(monkeypatch):
    def unreachable(name, config, **options):
        assert (name, config, options) == ("lmms-lab-encoder/ai2d", None, {"split": "test", "streaming": True})
        raise ConnectionError("no network\nhere")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(
        DataError, match=r"ai2d: cannot be had from the hub .no network here.; .* give its folder as NAME=FOLDER"
    ):
        list(ask("ai2d").load())


def test_the_hub_is_streamed_without_decoding_pictures(monkeypatch):
    rows = {"question": ["What eats krill?"], "options": [["kelp", "whale"]], "answer": ["1"], "image": [png()]}
    features = Features({"question": Value("string"), "options": List(Value("string")), "answer": Value("string"),
                         "image": HubImage()})  # fmt: skip
    stream = Dataset.from_dict(rows, features=features).to_iterable_dataset()
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: stream)
    (found,) = ask("ai2d").load()
    assert (found.example.answer, found.example.choices) == ("B", ("kelp", "whale"))
    assert found.example.images == (png(),)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("ai2d", {"options": ["a"], "answer": "1"}, "record row 0, field answer: no choice has the number '1'"),
        ("ai2d", {"options": "a,b"}, "options: must be a list of texts"),
        ("chartqa", {"question": None}, "question: is missing or empty"),
        ("chartqa", {"answer": None}, "answer: is missing"),
        ("mathvista", {"answer": None}, "has no answer; take testmini"),
        ("mathvista", {"choices": ["x", "y"]}, "'1.5' is none of the choices"),
        ("mmmu", {"image_2": None}, "image_2: the text names a picture that is not there"),
        ("mmmu", {"answer": "?"}, "has no answer; take validation"),
        ("a-okvqa", {"image": None}, "image: is missing"),
        ("ai2d", {"image": None}, "image: is missing"),
        ("iconqa", {"ques_type": "choose_img", "choices": "a,b,c"}, "choices: 3 choices, but 1 pictures of them"),
        ("iconqa", {"ques_type": None}, "ques_type"),
        ("m3cot", {"image": None}, "image: is missing"),
        ("m3cot", {"split": "dev2"}, "field split: 'dev2' is no split; known are test, val, train"),
        ("m3cot", {"split": ["test"]}, "field split: .'test'. is no split"),
        ("mmmu", {"question_type": "multi-choice"}, "question_type: unknown type 'multi-choice'; use one of multiple"),
        ("mmmu", {"question_type": None}, "question_type: unknown type None"),
        ("a-okvqa", {"correct_choice_idx": None}, "field correct_choice_idx: is missing"),
        ("chartqa", {"answer": ["1", "2"]}, "answer: must be a text or a number"),
        ("chartqa", {"answer": {"a": 1}}, "answer: must be a text or a number"),
        ("mathvista", {"precision": None}, "precision: must be the number of decimals"),
    ],
)
def test_faults_name_record_and_field(name, change, message, tmp_path):
    rows = {
        "ai2d": {"question": "Q?", "options": ["a", "b"], "answer": "0", "image": encoded()},
        "chartqa": {"type": "human", "question": "Q?", "answer": "1", "image": encoded()},
        "mathvista": VISTA | {"decoded_image": encoded()},
        "mmmu": MMMU_ROW | {f"image_{number}": encoded() for number in (1, 2, 3)},
        "iconqa": {
            "question_id": "6",
            "question": "Which?",
            "ques_type": "choose_txt",
            "choices": "up,down",
            "answer": "down",
            "query_image": encoded(),
            "choice_image_0": encoded(),
        },
        "m3cot": {
            "id": "m",
            "question": "Q?",
            "choices": ["a", "b"],
            "answer": "A",
            "rationale": "r",
            "image": encoded(),
        },
        "a-okvqa": {key: value for key, value in AOK.items() if key != "image_id"} | {"image": encoded()},
    }
    parquet(tmp_path, "rows.parquet", [rows[name] | change])
    with pytest.raises(DataError, match=rf"(?s)rows\.parquet.*{message.replace('(', '.')}"):
        list(ask(f"{name}={tmp_path / 'rows.parquet'}").load())


def test_pictures_lie_where_the_published_archives_put_them(tmp_path):
    science(tmp_path / "a")
    (tmp_path / "a/images").mkdir()
    (tmp_path / "a/test").rename(tmp_path / "a/images/test")
    assert len(list(ask(f"scienceqa-img={tmp_path / 'a'}").load())) == 1
    icons(tmp_path / "b")
    (tmp_path / "b/iconqa").mkdir()
    (tmp_path / "b/test").rename(tmp_path / "b/iconqa/test")
    assert [a.example.id for a in ask(f"iconqa={tmp_path / 'b'}").load()] == ["5", "6", "7"]
    aok(tmp_path / "c")
    (tmp_path / "coco").mkdir()
    (tmp_path / "c/val2017").rename(tmp_path / "coco/val2017")
    with pytest.raises(DataError, match="give image_root, the folder of the pictures"):
        list(ask(f"a-okvqa={tmp_path / 'c'}").load())
    assert len(list(ask(f"a-okvqa={tmp_path / 'c'}", {"image_root": str(tmp_path / "coco")}).load())) == 1


def test_iconqas_problems_without_a_split_are_told_apart(tmp_path):
    """As published: pid_splits.json names the splits; before, every problem counted as one of the split asked for."""
    icons(tmp_path)
    problems = json.loads((tmp_path / "problems.json").read_text())
    splits = {}
    for number, problem in problems.items():
        splits.setdefault(f"{problem['ques_type']}_{problem.pop('split')}", []).append(number)
    problems["90"] = problems["5"] | {"question": "Of another split?"}
    splits.setdefault(f"{problems['5']['ques_type']}_train", []).append("90")
    splits |= {f"fill_in_blank_{part}": ["5", "90", "8"] for part in ("trainval", "minitrain", "minival", "minitest")}
    write_json(tmp_path, "problems.json", problems)
    picture(tmp_path, "train/fill_in_blank/90/image.png")
    picture(tmp_path, "val/fill_in_blank/8/image.png")
    asked = [a.example.id for a in ask(f"iconqa={tmp_path}").load()]  # by the folders of the pictures
    write_json(tmp_path, "pid_splits.json", splits)
    for other in ("train", "val"):  # nor do pictures of other splits have to be unpacked
        shutil.rmtree(tmp_path / other)
    assert asked == [a.example.id for a in ask(f"iconqa={tmp_path}").load()] == ["5", "6", "7"]


M3COT_ROW = {"id": "m", "question": "Q?", "choices": ["a", "b"], "answer": "A", "rationale": "r"}


@pytest.mark.parametrize("home", ["", "data/"])
def test_m3cot_as_its_own_writer_leaves_it(tmp_path, home):
    """Pictures are named from the top of the folder, wherever the questions lie."""
    picture(tmp_path, "pictures/m.png")
    file = tmp_path / f"{home}dev.jsonl"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(M3COT_ROW | {"image_path": "pictures/m.png", "split": "dev"}))
    (found,) = ask(f"m3cot:val={tmp_path}").load()
    assert [Path(image).name for image in found.example.images] == ["m.png"]


def test_splits_are_told_apart_however_they_are_called(tmp_path):
    rows = [M3COT_ROW | {"id": split, "split": split, "image": encoded()}
            for split in ("train", "dev", "validation", "val", " Test", "testmini")]  # fmt: skip
    parquet(tmp_path, "all.parquet", rows[:-1])
    found = {split: [asked.example.id for asked in ask(f"m3cot:{split}={tmp_path / 'all.parquet'}").load()]
             for split in ("test", "val", "train")}  # fmt: skip
    assert found == {"test": [" Test"], "val": ["dev", "validation", "val"], "train": ["train"]}
    parquet(tmp_path, "dev.parquet", [M3COT_ROW | {"image": encoded()}])
    with pytest.raises(EvaluationError, match=r"dev.parquet is called val, and test is asked for; ask for :val$"):
        list(ask(f"m3cot={tmp_path / 'dev.parquet'}").load())
    assert len(list(ask(f"m3cot:val={tmp_path / 'dev.parquet'}").load())) == 1
    for stem in ("a_eval", "a_evaluation"):  # says nothing of a split
        parquet(tmp_path, f"{stem}.parquet", [M3COT_ROW | {"image": encoded()}])
        assert len(list(ask(f"m3cot={tmp_path}/{stem}.parquet").load())) == 1
    parquet(tmp_path, "train_and_more.parquet", [M3COT_ROW | {"image": encoded(), "split": "test"}])
    assert len(list(ask(f"m3cot={tmp_path / 'train_and_more.parquet'}").load())) == 1
    parquet(tmp_path, "train-00000-of-00001.parquet", [M3COT_ROW | {"image": encoded()}])
    with pytest.raises(EvaluationError, match=r"is called train, and test is asked for; rename it if it is not$"):
        list(ask(f"ai2d={tmp_path / 'train-00000-of-00001.parquet'}").load())


def test_mmmus_dev_is_not_its_validation(tmp_path):
    shown = {f"image_{number}": encoded() for number in (1, 2, 3)}
    for part, count in (("dev", 1), ("validation", 2)):
        parquet(tmp_path, f"Art/{part}-00000-of-00001.parquet", [MMMU_ROW | shown | {"split": part}] * count)
    assert [len(list(ask(f"mmmu:{split}={tmp_path}").load())) for split in ("dev", "val")] == [1, 2]


@pytest.mark.parametrize(("name", "file"), [("ai2d", "data/test"), ("mmmu", "Art/validation")])
def test_a_missing_shard_is_not_a_smaller_benchmark(tmp_path, name, file):
    row = {"question": "Q?", "options": ["a", "b"], "answer": "1", "image": encoded()}
    parquet(tmp_path, f"{file}-00000-of-00002.parquet", [row])
    with pytest.raises(DataError, match=r"only 1 of 2 shards of [a-z]+ are there; download the others"):
        list(ask(f"{name}={tmp_path}").load())


def test_fewer_questions_than_published_are_said(tmp_path, capsys):
    ai2d(tmp_path)
    assert find_benchmark(f"ai2d={tmp_path}").remark == "ai2d: 1 questions are here, 3,088 were published"
    assert find_benchmark(f"ai2d={tmp_path}", limit=1).remark is None
    assert find_benchmark(f"ai2d={tmp_path}", limit=2).remark is not None
    told = ["export", "lmms-eval", "--benchmark", f"ai2d={tmp_path}", "--output_dir", str(tmp_path / "tasks")]
    assert main(told) == 0
    assert "ai2d: 1 questions are here, 3,088 were published" in capsys.readouterr().err


def test_iconqas_right_choice_on_the_hub_is_told_by_its_text(tmp_path):
    """ "2" of "3,2,1" is the second, not the third: the hub writes texts, and numbers only of pictures."""
    row = {"question_id": "6", "question": "Which?", "query_image": encoded()}
    kinds = {"choose_txt": [("3,2,1", "2"), ("4, 0, 1", "0"), ("B,A,C", "A"), ("up,down", "B"), ("up,down", "1")]}
    rows = [row | {"ques_type": "choose_txt", "choices": told, "answer": answer}
            for told, answer in kinds["choose_txt"]]  # fmt: skip
    parquet(tmp_path, "rows.parquet", rows)
    assert [a.example.answer for a in ask(f"iconqa={tmp_path / 'rows.parquet'}").load()] == ["B", "B", "B", "B", "B"]
    blank = row | {"ques_type": "fill_in_blank", "choices": "", "answer": None, "answers": ["3", "three ", "", None]}
    parquet(tmp_path, "blank.parquet", [blank])
    (found,) = ask(f"iconqa={tmp_path / 'blank.parquet'}").load()
    assert (found.example.answer, found.also) == ("3", ("three",))


def test_an_interval_of_mmmu_is_one_answer(tmp_path):
    rows = [MMMU_ROW | {"question_type": "short-answer", "question": "Where?", "options": "[]", "answer": told}
            for told in ("[0, 5]", "['a', 'b']", "[" * 5000)]  # fmt: skip
    parquet(tmp_path, "rows.parquet", rows)
    found = [(a.example.answer, a.also) for a in ask(f"mmmu={tmp_path / 'rows.parquet'}").load()]
    assert found == [("[0, 5]", ()), ("a", ("b",)), ("[" * 5000, ())]


def test_halves_of_chartqa_are_named_where_they_are_told(tmp_path):
    row = {"question": "Q?", "answer": "1", "image": encoded()}
    told = [{}, {"human_or_machine": 0}, {"human_or_machine": 1}, {"human_or_machine": "0"}, {"type": "human_test"}]
    for number, more in enumerate(told):
        parquet(tmp_path, f"{number}.parquet", [row | more])
    found = [next(iter(ask(f"chartqa={tmp_path / f'{n}.parquet'}").load())).example.source for n in range(len(told))]
    assert found == ["chartqa", "chartqa/human", "chartqa/augmented", "chartqa/human", "chartqa/human"]


def test_who_opens_a_file_only_is_told_nothing_of_the_whole(tmp_path, caplog):
    Image.new("RGBA", (4, 4)).save(tmp_path / "glass.png")
    row = {"question": "Q?", "answer": "x", "image": "glass.png"}
    (tmp_path / "a.jsonl").write_text((json.dumps(row) + "\n") * 3)
    asked = open_first(tmp_path / "a.jsonl")
    assert "alpha" not in caplog.text
    assert len(list(asked.load())) == 3
    assert caplog.text.count("in 3 records a picture has an alpha channel") == 1


def test_cocos_number_may_be_a_text(tmp_path):
    write_json(tmp_path, "aokvqa_v1p0_val.json", [AOK | {"image_id": "42"}])
    picture(tmp_path, "val2017/000000000042.jpg")
    assert len(list(ask(f"a-okvqa={tmp_path}").load())) == 1


@pytest.mark.parametrize("option", ["format", "columns", "answer_from", "image_root"])
def test_an_option_that_nothing_takes_is_refused(option):
    reading = {"format": None, "columns": {}, "answer_from": None, "image_root": None, "segments": "llava-cot"}
    check_reading(["icons"], reading)
    check_reading(["icons", "mine.jsonl"], reading | {option: "x"})
    name = option.replace("format", "dataset_format")
    with pytest.raises(EvaluationError, match=rf"^{name} is for data files.*and none is asked for; leave it out$"):
        check_reading(["icons", "easy-vqa"], reading | {option: "x"})
    if option == "image_root":
        check_reading(["a-okvqa=/data"], reading | {option: "x"})


def test_a_split_that_is_not_there_is_not_made_up():
    with pytest.raises(EvaluationError, match=r"easy-vqa-captions has no split 'test'; there are train, val"):
        ask("easy-vqa-captions")
    assert ask("easy-vqa-captions:val").name == "easy-vqa-captions-val"


def test_what_a_benchmark_itself_leaves_out(tmp_path):
    hard = AOK | {"question_id": "hard", "difficult_direct_answer": True}
    write_json(tmp_path, "aokvqa_v1p0_val.json", [AOK | {"difficult_direct_answer": False}, hard])
    picture(tmp_path, "val2017/000000000042.jpg")
    assert [len(list(ask(f"{name}={tmp_path}").load())) for name in ("a-okvqa", "a-okvqa-direct")] == [2, 1]


def test_a_trace_that_no_question_needs_is_not_looked_at(tmp_path):
    odd = SCIENCE | {"image": None, "split": "test", "solution": "<think> a </think>"}
    write_json(tmp_path, "problems.json", {"1": odd})
    assert len(list(ask(f"scienceqa={tmp_path}").load())) == 1


def test_all_names_are_read_before_the_first_model(tmp_path, capsys):
    chart(tmp_path / "data")
    model = build_twin("qwen2_5_vl", tmp_path / "model")
    asked_for = ["evaluate", "--model", str(model), "--output_dir", str(tmp_path / "out"), "--benchmark"]
    assert main([*asked_for, f"chartqa={tmp_path / 'data'}", "aid2d"]) == 2
    assert "did you mean ai2d?" in capsys.readouterr().err
    assert main([*asked_for, f"chartqa={tmp_path / 'data'}", "chartqa"]) == 2
    assert "two benchmarks are called chartqa" in capsys.readouterr().err
    assert main([*asked_for, "chartqa="]) == 2
    assert "chartqa: '' does not exist; give the folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def asked(answer, choices=None, also=(), **facts):
    kind = "choice" if choices else "text"
    return Question(Example("q", "s", (), "Q?", choices, None, answer, kind), also, facts)


@pytest.mark.parametrize(
    ("answer", "question", "score"),
    [
        ("3", asked("3"), 1.0),
        ("", asked("3"), 0.0),
        (None, asked("3"), 0.0),
        ("rectangel", asked("Rectangle"), 1 - 2 / 9),
        ("abcd", asked("abxy"), 0.5),
        ("abc", asked("xyz"), 0.0),
        ("B", asked("B", ("up", "down")), 1.0),
        ("Down", asked("B", ("up", "down")), 1.0),
        ("(B)", asked("B", ("up", "down")), 1.0),
        ("The second image.", asked("A", ("The first image.", "The second image.")), 0.0),
        ("x" * 100_000, asked("xy"), 0.0),
        ("A", asked("B", ("up", "down")), 0.0),
    ],
)
def test_anls(answer, question, score):
    assert rules.anls(answer, question) == pytest.approx(score)


@pytest.mark.parametrize(
    ("answer", "right", "score"),
    [
        ("105", "100", 1.0),
        ("105.1", "100", 0.0),
        ("12.5%", "0.125", 1.0),
        ("12.5", "12.5%", 0.0),
        ("-95", "-100", 1.0),
        ("0", "0", 1.0),
        ("0.01", "0", 0.0),
        (" chad ", "Chad", 1.0),
        ("Chad, Mali", "Chad", 0.0),
        ("nan", "100", 0.0),
        (None, "100", 0.0),
    ],
)
def test_relaxed(answer, right, score):
    assert rules.relaxed(answer, asked(right)) == score


MANY = ("red fox", "blue whale", "dog", "cat")


@pytest.mark.parametrize(
    ("answer", "right", "score"),
    [
        ("B", "B", 1.0),
        ("(B)", "B", 1.0),
        ("B.", "B", 1.0),
        ("first (A), then (B)", "B", 1.0),
        ("first (A), then (B)", "A", 0.0),
        ("A or rather C", "C", 1.0),
        ("It is clearly a blue whale there", "B", 1.0),
        ("blue whale", "B", 1.0),
        ("something else", "B", 0.0),
        ("", "B", 0.0),
        ("B final A, C. ;", "B", 1.0),  # one mark after the other is stripped, so that "C." keeps its dot and blank
    ],
)
def test_mmmu_with_choices(answer, right, score):
    assert rules.mmmu(answer, asked(right, MANY)) == score


@pytest.mark.parametrize(
    ("answer", "question", "score"),
    [
        ("The value is 3.43", asked("24/7", also=("3.43",)), 1.0),
        ("24/7", asked("24/7", also=("3.43",)), 1.0),
        ("so x = 1,000", asked("1000"), 1.0),
        ("about 999", asked("1000"), 0.0),
        ("The answer is the Rhine river", asked("Rhine"), 1.0),
        ("Danube", asked("Rhine"), 0.0),
        ("a", asked("b"), 0.0),
        (None, asked("b"), 0.0),
        ("9" * 100_000, asked("1000"), 0.0),
        ("I reason at length. " * 100 + "So the answer is 42", asked("42"), 1.0),
        ("42, since " + "x" * 5000, asked("42"), 0.0),  # a number far from the end of what holds it
        ("The answer is \n5", asked("5"), 0.0),  # MMMU takes the "is" before the line's end for the key part
    ],
)
def test_mmmu_open(answer, question, score):
    assert rules.mmmu(answer, question) == score


@pytest.mark.parametrize(
    ("answer", "question", "score"),
    [
        ("14", asked("14", answer_type="integer"), 1.0),
        ("14.0", asked("14", answer_type="integer"), 1.0),
        ("15", asked("14", answer_type="integer"), 0.0),
        ("fourteen", asked("14", answer_type="integer"), 1.0),
        ("14.9", asked("14", answer_type="integer"), 1.0),
        ("1" * 40, asked("1.5", answer_type="float", precision=1.0), 0.0),
        ("1e999", asked("1.5", answer_type="float", precision=1.0), 0.0),
        ("1e999", asked("15", answer_type="integer"), 0.0),
        ("1.5", asked("1.5", answer_type="float", precision=float("nan")), 0.0),
        ("2", asked("1.5", answer_type="float", precision=None), 0.0),
        ("1.5", asked("1.5", answer_type="float", precision="1.0"), 1.0),
        ("B", asked("A", ("x", "x"), answer_type="text"), 1.0),
        ("1.46", asked("1.5", answer_type="float", precision=1.0), 1.0),
        ("1.44", asked("1.5", answer_type="float", precision=1.0), 0.0),
        ("none", asked("1.5", answer_type="float", precision=1.0), 0.0),
        ("[1, 2]", asked("[1, 2]", answer_type="list"), 1.0),
        ("(B) y", asked("B", ("x", "y"), answer_type="text"), 1.0),
        ("The answer is (B)", asked("B", ("x", "y"), answer_type="text"), 1.0),
        ("(A) or (B)", asked("B", ("x", "y"), answer_type="text"), 0.0),
        ("-3", asked("B", ("-3", "3"), answer_type="text"), 0.0),
        ("1.5", asked("1.5", answer_type="float", precision=[1]), 0.0),
        ("z", asked("B", ("x", "y"), answer_type="text"), 0.0),
        (None, asked("14", answer_type="integer"), 0.0),
    ],
)
def test_mathvista(answer, question, score):
    assert rules.mathvista(answer, question) == score


@pytest.mark.parametrize(
    ("answer", "right", "score"),
    [
        ("The correct answer is (D) cat", "D", 1.0),
        ("(A) is wrong, so (B)", "B", 1.0),
        ("(A) is wrong, so (B)", "A", 0.0),
        ("(Z)", "A", 0.0),
        ("It must be the blue whale.", "B", 1.0),
        ("no dog but a cat", "D", 1.0),  # of several texts the last choice's
        ("Option B, surely", "B", 1.0),
        ("c", "C", 1.0),
        ("neither", "A", 0.0),
        (None, "A", 0.0),
    ],
)
def test_m3cot(answer, right, score):
    assert rules.m3cot(answer, asked(right, MANY)) == score


@pytest.mark.parametrize(
    ("answer", "score"), [("horse", 1.0), ("Pony.", 1.0), ("mare", 1 / 3), ("cow", 0.0), ("...", 0.0), (None, 0.0)]
)
def test_vqa(answer, score):
    humans = asked("horse", direct_answers=["horse"] * 6 + ["pony"] * 3 + ["mare"])
    assert rules.vqa(answer, humans) == pytest.approx(score)


@pytest.mark.parametrize(
    ("one", "other", "edits"),
    [("", "", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("größe", "grosse", 3)],
)
def test_edit_distance(one, other, edits):
    assert rules.edit_distance(one, other) == rules.edit_distance(other, one) == edits


def test_a_file_of_ones_own_is_read_by_the_same_options_as_in_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("BALANCED_THINKING_CACHE", str(tmp_path / "cache"))
    picture(tmp_path, "elsewhere/a.png")
    (tmp_path / "own.csv").write_text("bild,frage,antwort\na.png,How many?,3\n")
    model = build_twin("qwen2_5_vl", tmp_path / "model")
    asked = ["evaluate", "--model", str(model), "--benchmark", str(tmp_path / "own.csv"), "--max_new_tokens", "4"]
    asked += ["--output_dir", str(tmp_path / "out"), "--image_root", str(tmp_path / "elsewhere")]
    columns = '{"image": "bild", "question": "frage", "answer": "antwort"}'
    assert main([*asked, "--columns", columns]) == 0
    assert "own.csv: accuracy 0.0 ± 0.0 % of 1 (exact match), malformed" in capsys.readouterr().out
    assert main([*asked, "--columns", "frage"]) == 2
    assert "columns must be JSON such as" in capsys.readouterr().err


def test_own_scores_stand_beside_exact_match(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("BALANCED_THINKING_CACHE", str(tmp_path / "cache"))
    chart(tmp_path / "data")
    model = build_twin("qwen2_5_vl", tmp_path / "model")
    options = ["--max_new_tokens", "4", "--output_dir", str(tmp_path / "out")]
    assert main(["evaluate", "--model", str(model), "--benchmark", f"chartqa={tmp_path / 'data'}", *options]) == 0
    assert re.search(r"accuracy 0.0 ± 0.0 % of 2 \(exact match\), relaxed 0.0 %, malformed", capsys.readouterr().out)
    row = json.loads((tmp_path / "out/metrics/chartqa.json").read_text())
    assert row["scores"] == {"relaxed": 0.0}
    assert row["sources"]["chartqa/human"] == {"n": 1, "accuracy": 0.0, "relaxed": 0.0}
    lines = (tmp_path / "out/predictions/chartqa.jsonl").read_text().splitlines()
    assert [json.loads(line)["scores"] for line in lines] == [{"relaxed": 0.0}] * 2
