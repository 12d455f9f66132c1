"""Every format in the exact shape in which its data set is published, with the traps that the real files hold."""

import json
import logging
import re
from dataclasses import replace

import pytest
from PIL import Image

from balanced_thinking.core.segments import LLAVA_COT, SegmentSpec
from balanced_thinking.data.example import Turn
from balanced_thinking.data.formats import FORMATS
from balanced_thinking.data.records import load_examples, to_dataset, to_trl_row
from balanced_thinking.errors import ConfigError, DataError, SegmentError

TAGGED = "<think> It is a cat. </think><answer> Final Answer:B </answer>"


def talk(*values, roles=("human", "gpt")):
    return [{"from": roles[i % 2], "value": value} for i, value in enumerate(values)]


def chat(*contents):
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


@pytest.fixture
def folder(tmp_path):
    places = ("a.png", "b.png", "cot/c.png", "test/7/image.png", "val/choose_img/9/image.png")
    places += ("val/choose_img/9/choice_0.png", "val/choose_img/9/choice_1.png", "val/fill_in_blank/8/image.png")
    for number, name in enumerate(places):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        Image.new("RGB", (4 + number, 4), (255, number, 0)).save(tmp_path / name)
    return tmp_path


def load(folder, *rows, name="data.jsonl", **options):
    path = folder / name
    text = json.dumps(rows) if name.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return list(load_examples(path, **options))


# (name, record, question, choices, think, answer, kind, pictures); the record as published, texts our own.
PUBLISHED = [
    ("sharegpt", {"id": "a1", "image": "cot/c.png", "conversations": talk("<image>\nWhich? A: dog B: cat", TAGGED)},
     "Which? A: dog B: cat", None, "It is a cat.", "B", "text", ["cot/c.png"]),  # Vision-R1-cold, LLaVA-CoT part
    ("sharegpt",
     {"images": "a.png", "conversations": talk("<image>Question: Q? Choices: A: x B: y", TAGGED,
                                               roles=("user", "assistant"))},
     "Question: Q? Choices: A: x B: y", None, "It is a cat.", "B", "text", ["a.png"]),  # its Mulberry part
    ("sharegpt",
     {"id": 3, "image": "a.png", "conversations": talk("<image>\nQ?", TAGGED, roles=("human", "assistant"))},
     "Q?", None, "It is a cat.", "B", "text", ["a.png"]),  # R1-Onevision
    ("sharegpt", {"id": 4, "image": ["a.png", "b.png"],
                  "conversations": talk("<image><image>Same?", "<think>Both red.</think><answer>yes</answer>")},
     "Same?", None, "Both red.", "yes", "text", ["a.png", "b.png"]),  # VLM-R1 layout, two pictures
    ("llava-cot",
     {"id": "l", "image": "a.png",
      "conversations": talk("Q?", "<SUMMARY> I look. </SUMMARY>\n\n<CAPTION> A cat. </CAPTION>\n\n<REASONING> So B."
                                  " </REASONING>\n\n<CONCLUSION> B </CONCLUSION>")},
     "Q?", None, "Summary: I look.\n\nCaption: A cat.\n\nReasoning: So B.", "B", "text", ["a.png"]),
    ("mulberry",
     {"messages": chat("<image>\nQ?", "### Image Description:\nA cat.\n\n### Let's think step by step.\n\n### Step 1:\n"
                                      "Look.\n\n### The final answer is: 12."), "images": "a.png"},
     "Q?", None, "### Image Description:\nA cat.\n\n### Let's think step by step.\n\n### Step 1:\nLook.", "12",
     "number", ["a.png"]),
    ("vlaa-thinking", {"id": "v", "image": "a.png", "question": "Q?", "answer": TAGGED, "gt": "B"},
     "Q?", None, "It is a cat.", "B", "text", ["a.png"]),
    ("vlaa-thinking", {"id": "v", "image": "a.png", "question": "Q?", "answer": "B", "caption": "c", "gt": "B",
                       "ds_answer": "<think>\nIt is a cat.\n</think>\n\nThe cat is B.\n\n**Answer:** B"},
     "Q?", None, "It is a cat.", "B", "text", ["a.png"]),
    ("share4o", {"id": "s", "image": "a.png", "conversations": talk("<image>\nQ?", "It is a cat.\n\n### Answer: cat")},
     "Q?", None, "It is a cat.", "cat", "text", ["a.png"]),
    ("m3cot", {"id": "m", "category": "c", "question": "Which?", "choices": ["dog", "cat"], "context": "Pets.",
               "answer": "B", "rationale": "It is a cat.", "image": "a.png", "domain": "d", "topic": "t",
               "split": "train"},
     "Pets.\nWhich?", ("dog", "cat"), "It is a cat.", "B", "choice", ["a.png"]),
    ("visual-cot",
     {"question_id": 5, "dataset": "flickr", "split": "train", "image": ["a.png", "crop/a.png###[1, 2, 3, 4]"],
      "conversations": talk("<image>\nQ? Please provide the bounding box coordinate of the region this question asks "
                            "about.", "[0.1, 0.2, 0.3, 0.4]", "<image>", "a cat")},
     "Q?", None, "The region is [0.1, 0.2, 0.3, 0.4].", "a cat", "text", ["a.png"]),
    ("ms-swift", {"messages": [*chat("<image>Q?"), {"role": "assistant", "content": "<think>t</think>", "loss": True},
                               {"role": "assistant", "content": "<answer>4</answer>"}], "images": ["a.png"]},
     "Q?", None, "t", "4", "number", ["a.png"]),
    ("trl", {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.png", "max_pixels": 50176},
                                                       {"type": "text", "text": "Q?"}]}, *chat("", TAGGED)[1:]]},
     "Q?", None, "It is a cat.", "B", "text", ["a.png"]),  # Qwen messages
    ("problem", {"problem": "Which?", "options": ["A. dog", "B. cat"], "process": "<think>It is a cat.</think>",
                 "solution": "<answer>B</answer>", "path": "a.png", "data_type": "image"},
     "Which?", ("dog", "cat"), "It is a cat.", "B", "choice", ["a.png"]),  # Video-R1
    ("table", {"image": "a.png|b.png", "question": "Which?", "reasoning": "It is a cat.", "answer": "cat",
               "choices": "dog|cat"},
     "Which?", ("dog", "cat"), "It is a cat.", "B", "choice", ["a.png", "b.png"]),
]  # fmt: skip


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
@pytest.mark.parametrize("case", PUBLISHED, ids=lambda case: case[0])
def test_published_records_are_recognised_and_read(folder, case, suffix, caplog):
    name, record, question, choices, think, answer, kind, pictures = case
    with caplog.at_level(logging.INFO):
        (example,) = load(folder, record, name=f"data.{suffix}")
    assert f"format {name}, since " in caplog.text
    assert (example.question, example.choices, example.think) == (question, choices, think)
    assert (example.answer, example.kind) == (answer, kind)
    assert example.images == tuple(str(folder / picture) for picture in pictures)


@pytest.mark.parametrize("case", PUBLISHED, ids=lambda case: case[0])
def test_what_was_read_goes_through_trls_form_unchanged(folder, case):
    (example,) = load(folder, case[1])
    (again,) = load(folder, to_trl_row(example), name="again.jsonl")
    assert again == example
    (row,) = to_dataset([example])
    assert row["completion"][0]["content"][0]["text"] == f"<think>{case[4]}</think><answer>{case[5]}</answer>"
    assert [picture.size for picture in row["images"]] == [Image.open(path).size for path in example.images]


SQA = {"question": "Which?", "choices": ["dog", "cat"], "answer": 1, "hint": "Pets.", "image": "image.png",
       "task": "closed choice", "grade": "grade2", "subject": "natural science", "topic": "biology", "category": "c",
       "skill": "s", "lecture": "Cats meow.", "solution": "It meows.", "split": "test"}  # fmt: skip


def test_scienceqa_as_published_by_id_with_pictures_in_split_and_id(folder):
    path = folder / "problems.json"
    path.write_text(json.dumps({"7": SQA, "8": {**SQA, "image": None, "hint": "", "lecture": ""}}, indent=1))
    first, second = load_examples(path)
    assert (first.id, first.question, first.answer, first.kind) == ("7", "Context: Pets.\nWhich?", "B", "choice")
    assert first.think == "Cats meow.\n\nIt meows."
    assert first.images == (str(folder / "test/7/image.png"),)
    assert (second.images, second.question, second.think) == ((), "Which?", "It meows.")
    path.write_text(json.dumps({"8": {**SQA, "answer": 2}}))
    with pytest.raises(DataError, match=r"8 \(row 0\), field answer: no choice has the number 2; give a number from 0"):
        list(load_examples(path))


def test_scienceqa_as_parquet_with_encoded_pictures(folder):
    from datasets import Dataset

    encoded = (folder / "a.png").read_bytes()
    rows = [{**SQA, "image": {"bytes": encoded, "path": None}}, {**SQA, "image": None}]
    Dataset.from_list(rows).to_parquet(folder / "test.parquet")
    first, second = load_examples(folder / "test.parquet")
    assert first.images == (encoded,)
    assert second.images == ()
    assert first.answer == "B"


def test_iconqa_has_three_types_and_no_traces(folder):
    common = {"question": "Which?", "split": "val", "label": "l", "grade": "g", "skills": []}
    problems = {
        "9": {**common, "ques_type": "choose_img", "choices": ["choice_0.png", "choice_1.png"], "answer": 1},
        "8": {**common, "ques_type": "fill_in_blank", "choices": None, "answer": "7"},
    }
    path = folder / "problems.json"
    path.write_text(json.dumps(problems))
    with pytest.raises(SegmentError, match='no reasoning trace; set on_missing to "train"'):
        list(load_examples(path))
    pictures, blank = load_examples(path, on_missing="train")
    assert pictures.choices == ("The first image.", "The second image.")
    assert (pictures.answer, pictures.kind, blank.answer, blank.kind) == ("B", "choice", "7", "number")
    home = folder / "val/choose_img/9"
    assert pictures.images == tuple(str(home / name) for name in ("image.png", "choice_0.png", "choice_1.png"))
    assert blank.images == (str(folder / "val/fill_in_blank/8/image.png"),)


@pytest.mark.parametrize("listed", [True, False])
def test_iconqas_splits_stand_beside_its_problems_or_in_its_folders(folder, listed):
    """As published: the problems have no field split."""
    problem = {"question": "Which?", "choices": ["3", "5"], "answer": 1, "ques_type": "choose_txt", "grade": "k"}
    (folder / "problems.json").write_text(json.dumps({"7": problem, "8": problem}))
    for split, number in (("train", "7"), ("test", "8")):
        place = folder / split / "choose_txt" / number
        place.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(place / "image.png")
    if listed:
        splits = {"choose_txt_train": ["7"], "choose_txt_test": ["8"], "fill_in_blank_train": []}
        (folder / "pid_splits.json").write_text(json.dumps(splits))
    first, second = load_examples(folder, on_missing="train")  # the lists beside the problems are no data set
    assert first.images == (str(folder / "train/choose_txt/7/image.png"),)
    assert second.images == (str(folder / "test/choose_txt/8/image.png"),)


def test_a_broken_list_of_iconqas_splits_is_named(folder):
    problem = {"question": "Which?", "choices": ["3", "5"], "answer": 1, "ques_type": "choose_txt"}
    (folder / "problems.json").write_text(json.dumps({"7": problem}))
    (folder / "pid_splits.json").write_text('{"choose_txt_train": 3}')
    with pytest.raises(DataError, match=r"pid_splits\.json: not IconQA's list of splits .*; get it anew, or"):
        list(load_examples(folder / "problems.json", on_missing="train"))


@pytest.mark.parametrize("weighted", [True, False])
def test_names_and_boxes_that_ms_swift_fills_in_are_refused(folder, weighted):
    said = {
        "role": "assistant",
        "content": "<think>t</think><answer><bbox></answer>",
        **({"loss": True} if weighted else {}),
    }
    row = {"messages": [{"role": "user", "content": "Where is <ref-object>?"}, said]}
    objects = {"ref": ["cat"], "bbox": [[1, 2, 3, 4]]}
    with pytest.raises(
        DataError, match="field objects: <ref-object> stands for a part of objects, which is not filled in"
    ):
        load(folder, row | {"objects": objects})
    (example,) = load(folder, row)  # without objects they are text like any other
    assert example.answer == "<bbox>"


@pytest.mark.parametrize(
    ("row", "format"),
    [
        ({"image": "a.png", "conversations": talk("<image>Q?", TAGGED)}, "sharegpt"),
        ({"prompt": "Q?", "completion": TAGGED}, "trl"),
        ({"question": "Q?", "reasoning": "r", "answer": "x"}, "table"),
    ],
)
def test_a_column_of_system_prompts_is_counted_as_a_system_turn_is(folder, caplog, row, format):
    load(folder, row | {"system": "Answer in French."}, format=format)
    assert "in 1 records a system turn was left out (set a system prompt for the whole run instead)" in caplog.text


def test_stages_that_are_not_whole_are_left_out_where_asked(folder, caplog):
    good = "<SUMMARY>s</SUMMARY><CONCLUSION>B</CONCLUSION>"
    bad = [
        "<SUMMARY>s</SUMMARY><CONCLUSION>B",
        good + "<SUMMARY>s</SUMMARY>",
        "<CONCLUSION>B</CONCLUSION><SUMMARY>s</SUMMARY>",
    ]
    rows = [{"conversations": talk("Q?", text)} for text in (good, *bad)]
    assert len(load(folder, *rows, on_missing="skip")) == 1
    assert "3 records skipped (1 unclosed-conclusion, 1 duplicate, 1 order)" in caplog.text


def test_problems_without_a_trace_are_for_grpo(folder):
    row = {"images": ["a.png"], "problem": "<image>Find x.", "answer": "3"}
    (example,) = load(folder, row, on_missing="train")
    assert (example.question, example.think, example.answer, example.kind) == ("Find x.", None, "3", "number")


def test_a_csv_beside_its_pictures_with_columns_of_its_own(folder):
    text = '\ufefffile,Frage,Weg,Antwort\na.png,"Welche, bitte?","Eine ""Katze"",\nalso rot.",rot\nb.png,Und?,,blau\n'
    path = folder / "eigene.csv"
    path.write_text(text, encoding="utf-8")
    columns = {"image": "file", "question": "Frage", "reasoning": "Weg", "answer": "Antwort"}
    with pytest.raises(SegmentError, match=r"line 4\): .*|record line 4: the row has no reasoning trace"):
        list(load_examples(path, columns=columns))
    first, second = load_examples(path, columns=columns, on_missing="train")
    assert (first.question, first.think, first.answer) == ("Welche, bitte?", 'Eine "Katze",\nalso rot.', "rot")
    assert (second.think, second.images) == (None, (str(folder / "b.png"),))


def test_a_folder_of_pictures_with_its_table(folder):
    (folder / "metadata.csv").write_text("file_name,question,reasoning,answer\ncot/c.png,Q?,Because.,yes\n")
    (example,) = load_examples(folder)
    assert example.images == (str(folder / "cot/c.png"),)


def test_llama_factory_says_what_the_columns_are_called(folder):
    rows = [{"chat": [{"who": "q", "says": "<image>Q?"}, {"who": "a", "says": TAGGED}], "pics": ["a.png"]}]
    (folder / "mine.json").write_text(json.dumps(rows))
    columns = {"messages": "chat", "images": "pics"}
    tags = {"role_tag": "who", "content_tag": "says", "user_tag": "q", "assistant_tag": "a"}
    mine = {"file_name": "mine.json", "formatting": "sharegpt", "columns": columns, "tags": tags}
    info = folder / "dataset_info.json"
    info.write_text(json.dumps({"mine": mine}))
    for path in (folder, info, f"{info}:mine"):
        (example,) = load_examples(path)
        assert (example.question, example.think, example.answer) == ("Q?", "It is a cat.", "B")
        assert example.images == (str(folder / "a.png"),)
    alpaca = {"file_name": "plain.json", "columns": {"response": "out"}}
    (folder / "plain.json").write_text(json.dumps([{"instruction": "Add.", "input": "2+2", "out": TAGGED}]))
    info.write_text(json.dumps({"mine": mine, "plain": alpaca}))
    (example,) = load_examples(f"{info}:plain")
    assert (example.question, example.images) == ("Add.\n2+2", ())
    with pytest.raises(ConfigError, match=r"names 2 data sets; give one, such as .*dataset_info.json:mine"):
        load_examples(folder)
    with pytest.raises(ConfigError, match="names no data set 'other'; there are mine, plain"):
        load_examples(f"{info}:other")
    rows[0]["chat"][0]["who"] = "x"
    (folder / "mine.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"field chat: unknown role 'x'; dataset_info.json names 'q', 'a', 'system'"):
        load_examples(f"{info}:mine")


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("image", 'field image: the entry names no column of pictures, but here is one; add "images": "image" to its'),
        ("picture", "field picture: no record has a picture, but this field, which is not read, holds pictures"),
    ],
)
def test_llama_factory_loses_no_picture_that_its_entry_does_not_name(folder, field, message):
    (folder / "mine.json").write_text(json.dumps([{"instruction": "Q?", "output": TAGGED, field: "a.png"}]))
    (folder / "dataset_info.json").write_text(json.dumps({"mine": {"file_name": "mine.json"}}))
    with pytest.raises(DataError, match=re.escape(message)):
        list(load_examples(folder))
    if field == "picture":
        (example,) = load_examples(folder, columns={"image": "picture"})
        assert example.images == (str(folder / "a.png"),)


def test_parquet_shards_are_one_data_set(folder):
    from datasets import Dataset

    row = {"problem": "Q?", "answer": "3"}
    (folder / "set" / "data").mkdir(parents=True)
    for number in range(2):
        Dataset.from_list([row] * 3).to_parquet(folder / "set" / "data" / f"train-0000{number}-of-00002.parquet")
    assert len(list(load_examples(folder / "set", on_missing="train"))) == 6


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"promt": "Q?", "completion": TAGGED},
         'did you mean prompt by promt? --columns \'{"prompt": "promt"}\'; a table has the columns image, question, '),
        ({"Question": "Q?", "anwser": "x", "id": 3},
         "did you mean question by Question and answer by anwser? --columns "
         '\'{"question": "Question", "answer": "anwser"}\''),
        ({"frage": "Q?"}, "(columns: frage); a table has the columns image, question, reasoning and answer: say which"),
        ({"question": "Q?", "reasoning": "r"}, "; a table needs answer too: say which column it is (--columns, "),
        ({"bild": "a.png", "answer": "x"}, "; a table needs question too: say which column it is (--columns, "),
    ],
)  # fmt: skip
def test_columns_of_almost_our_names_are_named(folder, row, hint):
    with pytest.raises(DataError) as caught:
        load(folder, row)
    assert hint in str(caught.value)
    assert "other formats (--dataset_format, in Python format=): llava-cot, share4o, " in str(caught.value)


def test_a_stray_first_record_does_not_hide_the_form_of_the_others(folder):
    """Before, the first record alone said what the whole file is, and the file was refused."""
    good = {"question": "Q?", "reasoning": "r", "answer": "x"}
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ({"note": "by me"}, good, good)))
    with pytest.raises(DataError, match=r"a.jsonl, record line 1, field answer: the answer is empty"):
        list(load_examples(folder / "a.jsonl"))


def test_lines_of_empty_cells_are_passed_over_and_counted(folder, caplog):
    (folder / "a.csv").write_text("question;reasoning;answer\nQ?;r;x\n;;\nQ2?;r;y\n;;\n")
    assert [example.answer for example in load_examples(folder / "a.csv")] == ["x", "y"]
    assert "in 2 records nothing stands in any column, and they were passed over" in caplog.text
    (folder / "b.csv").write_text("question;reasoning;answer\n;;\n")
    with pytest.raises(DataError, match=r"b\.csv: nothing stands in any record; give at least one"):
        list(load_examples(folder / "b.csv"))


# Faults ---------------------------------------------------------------------------------------------------------------

FAULTS = [
    ("sharegpt", {"conversations": talk("<image>Q?", TAGGED)}, {}, "1 <image> mark in the text but no pictures"),
    ("sharegpt", {"image": "a.png", "conversations": talk("<image><image>Q?", TAGGED)}, {}, "2 <image> marks"),
    ("sharegpt", {"image": "none.png", "conversations": talk("Q?", TAGGED)}, {}, "field image: no such picture"),
    ("sharegpt", {"image": "../../../x.png", "conversations": talk("Q?", TAGGED)}, {}, "outside the folder"),
    ("sharegpt", {"conversations": [{"from": "bot", "value": "Q?"}]}, {}, "conversations[0].from: unknown role 'bot'"),
    ("sharegpt", {"conversations": talk("Q?")}, {}, "no reasoning trace"),
    ("sharegpt", {"conversations": talk("Q?", 7)}, {}, "field conversations"),
    ("sharegpt", {"conversations": talk("Q?", TAGGED, "More?", "<think>t")}, {}, "is never closed"),
    ("llava-cot", {"conversations": talk("Q?", "so", "?", "<CONCLUSION>B</CONCLUSION>")}, {}, "no reasoning trace"),
    ("llava-cot", {"conversations": talk("Q?", "<CONCLUSION>B</CONCLUSION>")}, {"segments": LLAVA_COT}, "no <SUMMARY>"),
    ("sharegpt", {"conversations": talk("Q?", "<think>t <answer>B</answer>")}, {}, "field conversations: "),
    ("sharegpt", {"conversations": talk("Q?", "<think>t</think>B")}, {}, "read it with answer_from=after_think (or"),
    ("llava-cot", {"conversations": talk("Q?", "<SUMMARY>s</SUMMARY><CONCLUSION>B")}, {}, "is never closed by"),
    ("llava-cot", {"conversations": talk("Q?", "<CONCLUSION>B</CONCLUSION><SUMMARY>s</SUMMARY>")}, {}, "in the order"),
    ("llava-cot", {"conversations": talk("Q?", "<CONCLUSION>B</CONCLUSION>")}, {"answer_from": "boxed"}, "leave"),
    ("mulberry", {"messages": chat("Q?", "### Rationales: r")}, {}, "no text behind '### The final answer is:'"),
    ("share4o", {"conversations": talk("Q?", "t ### Answer: ")}, {}, "no text behind '### Answer:'"),
    ("m3cot", {"question": "Q?", "choices": ["x", "y"], "answer": "C", "rationale": "r"}, {}, "none of the choices"),
    ("m3cot", {"question": "Q?", "choices": ["x", "y"], "answer": "A", "rationale": None}, {}, "no reasoning trace"),
    ("iconqa", {"question": "Q?", "ques_type": "choose_img", "choices": ["c.png"], "answer": 0}, {}, "2 to 5"),
    ("visual-cot", {"image": ["a.png", "a.png###[1]"], "conversations": talk("Q?", "[1]")}, {}, "four turns"),
    ("table", {"question": "Q?", "answer": None, "reasoning": "r"}, {}, "field answer: the answer is empty; give it"),
    ("table", {"question": "Q?", "answer": ["x"], "reasoning": "r"}, {}, "must be text or a number, not list"),
    ("table", {"question": None, "answer": "x", "reasoning": "r"}, {}, "field question: is empty; fill it, or leave"),
    ("table", {"question": "Q?", "answer": "y</answer> n", "reasoning": "r"}, {}, "field answer: the text holds </ans"),
    ("table", {"question": "Q?", "answer": "y", "reasoning": "<think>"}, {}, "field reasoning: the text holds <think>"),
    ("table", {"question": "Q?", "answer": "y", "reasoning": "r", "choices": "y;n"}, {}, "in one cell are parted by |"),
    ("table", {"question": "Q?", "answer": "x", "reasoning": 7}, {}, "field reasoning: must be text, not int"),
    ("table", {"question": "Q?", "answer": "x", "image": "a.png", "file_name": "a.png"}, {}, "both image and"),
    ("table", {"question": "Q?", "answer": "x", "choices": "[1"}, {}, "field choices: not a JSON list"),
    ("vlaa-thinking", {"question": "Q?", "ds_answer": "<think>t</think>so B"}, {}, "and gt is empty"),
    ("scienceqa", {**SQA, "image": None, "lecture": 3}, {}, "field lecture: must be text, not int"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "options", "message"), FAULTS)
def test_faults_name_file_record_field_and_remedy(folder, name, row, options, message):
    with pytest.raises((DataError, ConfigError)) as caught:
        load(folder, {"id": "r1", **row}, format=name, **options)
    line = str(caught.value)
    assert "\n" not in line
    assert message in line
    if isinstance(caught.value, DataError):
        assert line.startswith(f"{folder / 'data.jsonl'}, record r1 (line 1)")


def test_dirty_rows_are_skipped_and_counted_by_kind(folder, caplog):
    """R1-Onevision's faults: the answer inside the trace, no answer, no mark for the picture, an unclosed trace."""
    rows = [
        {"id": 1, "image": "a.png", "conversations": talk("<image>Q?", "<think>t <answer>A</answer></think>")},
        {"id": 2, "image": "a.png", "conversations": talk("<image>Q?", "<think>t</think>")},
        {"id": 3, "image": "a.png", "conversations": talk("Q?", TAGGED)},
        {"id": 4, "image": "a.png", "conversations": talk("<image>Q?", "<think>t <answer>A</answer>")},
    ]
    examples = load(folder, *rows, on_missing="skip")
    assert [example.id for example in examples] == ["3"]
    assert "3 records skipped (" in caplog.text
    assert "in 1 records pictures without an <image> mark in the text were put in front of it" in caplog.text
    assert "(1 answer-in-think, 1 no-answer, 1 unclosed-think)" in caplog.text


def test_raw_vlaa_counts_where_the_response_and_gt_differ(folder, caplog):
    row = {"id": "v", "question": "Q?", "gt": "A", "ds_answer": "<think>t</think>\n**Answer:** B"}
    (example,) = load(folder, row)
    assert example.answer == "A"
    assert "in 1 records the raw response ends with another answer than gt, which was taken" in caplog.text


@pytest.mark.parametrize(
    ("response", "outside"),
    [
        ("<think>r</think><answer>x</answer>", 0),
        ("r</think>\n<answer>x</answer>\n", 0),
        ("Preface <think>r</think> more <answer>x</answer>", 1),
        ("<think>r</think><answer>x</answer> trailing", 1),
    ],
)
def test_text_outside_the_tags_is_counted(folder, caplog, response, outside):
    (example,) = load(folder, {"conversations": talk("Q?", response)})
    assert (example.think, example.answer) == ("r", "x")
    assert caplog.text.count("in 1 records text of the response outside its tags was left out") == outside


def test_odd_text_goes_through_as_it_is(folder):
    trace = "长" * 50_000 + "🐈 é\u200d" * 20_000
    row = {"id": "長", "conversations": talk("¿Qué? 什么?", f"<think>{trace}</think><answer>猫</answer>")}
    (example,) = load(folder, row)
    assert (example.id, example.question, example.think, example.answer) == ("長", "¿Qué? 什么?", trace, "猫")


def test_a_large_json_array_is_read_piece_by_piece(folder):
    """The first example is there although the end of the file is broken."""
    rows = json.dumps([{"problem": "Q?", "answer": str(i)} for i in range(1000)])
    path = folder / "big.json"
    path.write_text(rows[:-40])
    examples = load_examples(path, on_missing="train")
    assert next(examples).answer == "0"
    with pytest.raises(DataError, match="not JSON"):
        list(examples)


NO_TEXT = [
    ("visual-cot", {"image": ["a.png", "a.png###[1]"], "conversations": talk("Q?", "[1]", "<image>", None)}),
    ("visual-cot", {"image": ["a.png", "a.png", "b.png"], "conversations": talk("Q?", "[1]", "<image>", "x")}),
    ("table", {"question": "Q?", "reasoning": "r", "answer": float("nan")}),
    ("problem", {"problem": "Q?", "process": ["t"], "solution": "<answer>x</answer>"}),
    ("problem", {"problem": "Q?", "options": {"A": "x"}, "answer": "A"}),
    ("m3cot", {"question": "Q?", "choices": ["x", "y"], "answer": "A", "rationale": ["r"]}),
    ("vlaa-thinking", {"question": "Q?", "gt": ["5"], "ds_answer": "<think>t</think>**Answer:** 5"}),
    ("sharegpt", {"conversations": [{"from": ["human"], "value": "Q?"}]}),
]


@pytest.mark.parametrize(("name", "row"), NO_TEXT)
def test_nulls_and_lists_never_become_text(folder, name, row):
    with pytest.raises(DataError, match="record r1") as caught:
        load(folder, {"id": "r1", **row}, format=name, on_missing="train")
    assert caught.value.field


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Q?", "reasoning": "r", "answer": "a</answer> b"},
        {"question": "Q?", "reasoning": "I close </think> now", "answer": "x"},
        {"question": "Q?", "reasoning": None, "answer": "foo</think>bar"},
    ],
)
def test_a_tag_inside_a_text_is_a_fault_and_cuts_nothing(folder, row):
    with pytest.raises(DataError, match=r"the text holds </(think|answer)> itself; take the tag out"):
        load(folder, row, on_missing="train", format="table")


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("sharegpt", {"conversations": "Q?"}, 'must be a list of turns; write [{"from": "user", "value": ..}, ..], or'),
        ("table", {"question": "Q?", "reasoning": ["r"], "answer": "x"}, "must be text, not list; write it as text"),
        (
            "table",
            {"question": "Q?", "reasoning": "r", "answer": "x", "choices": "['dog', 'cat']"},
            'write it as JSON does, ["dog", "cat"] (json.dumps), or parted by |',
        ),
    ],
)
def test_faults_of_types_say_what_to_write(folder, name, row, message):
    with pytest.raises(DataError, match=re.escape(message)):
        load(folder, row, format=name)


def test_letters_are_taken_off_options_only_where_all_carry_them(folder):
    row = {"problem": "Where?", "options": ["U.S.", "U.K."], "solution": "<answer>A</answer>"}
    (example,) = load(folder, row, on_missing="train")
    assert example.choices == ("U.S.", "U.K.")


def test_nan_and_keys_that_occur_twice_lose_no_record(folder):
    records = [f'"{key}": {{"problem": "Q{i}?", "answer": "{i}"{nan}}}'
               for i, (key, nan) in enumerate([("1", ""), ("1", ""), ("2", ', "x": NaN'), ("3", "")])]  # fmt: skip
    (folder / "dk.json").write_text("{" + ",\n".join(records) + "}")
    assert [e.answer for e in load_examples(folder / "dk.json", on_missing="train")] == ["0", "1", "2", "3"]
    (folder / "one.json").write_text(json.dumps({"image": {"path": "a.png"}, "question": "Q?"}, indent=1))
    with pytest.raises(DataError, match="the file holds an object, not a list of records"):
        load_examples(folder / "one.json")


def test_half_characters_and_endless_nesting_are_faults_of_their_record(folder):
    good = json.dumps({"problem": "Q?", "answer": "1"})
    for bad, message in (('{"problem": "Q \\ud800", "answer": "1"}', "half a character"), ("[" * 200_000, "nested")):
        (folder / "d.jsonl").write_text(f"{good}\n{bad}\n")
        with pytest.raises(DataError, match=f"record line 2: .*{message}"):
            list(load_examples(folder / "d.jsonl", on_missing="train"))


@pytest.mark.parametrize("form", ["list", "object", "surrogate in a key"])
def test_half_characters_in_json_are_faults_of_their_record_too(folder, form):
    """Whole pairs, and what only looks like an escape, stay as they are."""
    odd = "Q \\\\ud800 \\ud83d\\ude00"
    good, bad = f'{{"problem": "{odd}", "answer": "1"}}', '{"problem": "Q \\ud800?", "answer": "1"}'
    text = f"[{good}, {bad}, {good}]"
    if form != "list":
        text = f'{{"a": {good}, "b": {bad}, "c": {good}}}'
    if form == "surrogate in a key":
        text = f'{{"a": {good}, "b\\udc00": {good}}}'
    (folder / "d.json").write_text(text)
    examples = load_examples(folder / "d.json", on_missing="train", format="problem")
    assert next(examples).question == "Q \\ud800 \U0001f600"
    with pytest.raises(
        DataError, match=r"d\.json, record row 1: .*half a character \(a lone surrogate\); save the file"
    ):
        next(examples)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{bad", "not JSON"),
        ("[1]", "not a table of data sets"),
        ('{"m": 1}', "record m: must be an object, not int"),
        ('{"m": {"script_url": "x"}}', "the entry says not where the data are; give file_name or hf_hub_url"),
        ('{"m": {"file_name": null}}', "field file_name: must be the name of a data file"),
        ('{"m": {"file_name": "dataset_info.json"}}', "field file_name: must be the name of a data file"),
        ('{"m": {"file_name": "x.json", "columns": ["a"]}}', "field columns: must be an object of names"),
    ],
)
def test_a_broken_table_of_data_sets_is_one_line(folder, text, message):
    (folder / "dataset_info.json").write_text(text)
    with pytest.raises(DataError, match=message):
        list(load_examples(f"{folder}/dataset_info.json:m"))


@pytest.mark.parametrize("history", [[["<image>old q", "old a"]], "old q", [["old q"]]])
def test_earlier_turns_of_alpaca_rows_are_context(folder, history):
    rows = [{"instruction": "Q?", "output": TAGGED, "history": history, "images": ["a.png"]}]
    (folder / "h.json").write_text(json.dumps(rows))
    (folder / "dataset_info.json").write_text(json.dumps({"m": {"file_name": "h.json"}}))
    if history == [["<image>old q", "old a"]]:
        (example,) = load_examples(f"{folder}/dataset_info.json:m")
        assert example.context == (Turn("user", "old q", 1), Turn("assistant", "old a"))
        assert (example.question, example.answer) == ("Q?", "B")
    else:
        with pytest.raises(DataError, match="field history: must be a list of pairs; give"):
            list(load_examples(f"{folder}/dataset_info.json:m"))


STAGES = "<SUMMARY>s</SUMMARY>\n<CAPTION>c</CAPTION>\n<REASONING>r</REASONING>\n<CONCLUSION>B</CONCLUSION>"


def test_earlier_responses_of_llava_cot_are_joined_too(folder):
    (example,) = load(folder, {"image": "a.png", "conversations": talk("Q?", STAGES, "More?", STAGES)})
    told = "<think>Summary: s\n\nCaption: c\n\nReasoning: r</think><answer>B</answer>"
    assert example.context == (Turn("user", "Q?", 1), Turn("assistant", told))
    assert (example.question, example.think) == ("More?", "Summary: s\n\nCaption: c\n\nReasoning: r")


def test_the_stages_of_llava_cot_can_be_segments(folder):
    row = {"image": "a.png", "conversations": talk("Q?", STAGES)}
    (example,) = load(folder, row, segments=LLAVA_COT)
    assert (example.response, example.think, example.answer) == (STAGES, "s\n\nc\n\nr", "B")
    assert load(folder, to_trl_row(example), segments=LLAVA_COT) == [replace(example, source="data", id="data-0")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the response is null, not text; give it as text or as parts of type text"),
        ([], "the response has no <answer>"),
        ([{"type": "image"}], "the response is a list of other things, not text"),
        ([{"type": "text", "text": None}], "the response is a list of other things, not text"),
        (7, "the response is int, not text"),
    ],
)
def test_a_response_that_is_no_text_is_called_so(folder, content, message):
    """And not a turn of the wrong role."""
    turns = [*chat("Q?"), {"role": "assistant", "content": content, "loss": True}]
    with pytest.raises(DataError, match=message):
        load(folder, {"messages": turns})


def test_messages_of_ms_swift_may_be_parts_of_text(folder):
    parts = [{"type": "text", "text": "<think>t</think>"}, {"type": "text", "text": "<answer>4</answer>"}]
    (example,) = load(folder, {"messages": [*chat("Q?"), {"role": "assistant", "content": parts, "loss": True}]})
    assert (example.think, example.answer) == ("t", "4")


def test_videos_of_llama_factory_are_refused_too(folder):
    row = {"conversations": talk("Q?", TAGGED), "clips": ["a.mp4"]}
    (folder / "h.json").write_text(json.dumps([row]))
    entry = {"file_name": "h.json", "formatting": "sharegpt", "columns": {"videos": "clips"}}
    (folder / "dataset_info.json").write_text(json.dumps({"m": entry}))
    with pytest.raises(DataError, match="field videos: only pictures can be shown"):
        list(load_examples(f"{folder}/dataset_info.json:m"))


PLAN = (SegmentSpec("plan", "[plan]", "[/plan]"), SegmentSpec("so", "[so]", "[/so]"))


@pytest.mark.parametrize("case", [*PUBLISHED, ("scienceqa", {**SQA, "image": "a.png"})], ids=lambda case: case[0])
def test_every_format_gives_its_answer_to_a_model_of_other_segments(folder, case, caplog):
    """So that GRPO and evaluation of such a model, which need no trace, can read it; training in them cannot."""
    (example,) = load(folder, case[1])
    (alone,) = load(folder, case[1], segments=PLAN, on_missing="train")
    assert alone == replace(example, think=None, response=f"[so]{example.answer}[/so]")
    assert "in 1 records the response is of other segments, and its answer alone was taken" in caplog.text
    with pytest.raises(SegmentError, match=r"the response has no \[plan\]"):
        load(folder, case[1], segments=PLAN)


def test_no_format_is_shadowed_by_another(folder):
    """Each is found by the first published record of its own, whatever the order of the table."""
    assert {case[0] for case in PUBLISHED} | {"scienceqa", "iconqa"} == set(FORMATS)


def test_an_earlier_reply_of_llava_cot_may_be_plain(folder):
    (example,) = load(folder, {"conversations": talk("Hello?", "Hi.", "Q?", STAGES)})
    assert example.context == (Turn("user", "Hello?"), Turn("assistant", "Hi."))
    assert example.answer == "B"


def test_assistant_messages_in_a_row_are_joined_wherever_they_stand(folder):
    turns = [("user", "1?"), ("assistant", "<think>a</think>"), ("assistant", "<answer>x</answer>"), ("user", "2?")]
    turns += [("assistant", "<think>b</think>"), ("assistant", "<answer>y</answer>")]
    (example,) = load(folder, {"messages": [{"role": role, "content": text} for role, text in turns]})
    assert example.context[1] == Turn("assistant", "<think>a</think><answer>x</answer>")
    assert (example.think, example.answer) == ("b", "y")
