"""``balanced check-data``: every fault counted and named, figures by hand, a clean copy that is clean."""

import json
import shutil

import pytest
from PIL import Image

from balanced_thinking.cli.main import main
from balanced_thinking.data.records import is_held_out, load_examples

GOOD = "<think> one two three </think><answer> Final Answer:B </answer>"


def row(number, response=GOOD, image="a.png", question="Q?"):
    turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": response}]
    return {"id": number, "image": image, "conversations": turns}


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "a.png")
    Image.new("RGB", (8, 8), (0, 0, 255)).save(tmp_path / "b.png")
    shutil.copy(tmp_path / "a.png", tmp_path / "copy.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    return tmp_path


def write(path, *rows, tail=""):
    path.write_text("".join(json.dumps(each) + "\n" for each in rows) + tail, encoding="utf-8")
    return path


def check(path, *options):
    figures = path.with_suffix(".figures")
    code = main(["check-data", str(path), "--json", str(figures), *map(str, options)])
    return code, json.loads(figures.read_text())


def test_every_kind_of_fault_is_counted_and_named(folder, capsys):
    Image.new("RGB", (8, 8)).save(folder.parent / "x.png")
    rows = [row(1), row(2, "<think>t</think>"), row(3, "<think>t</think>B"), row(4, image="none.png")]
    rows += [row(5, image="broken.png"), row(6, image=str(folder.parent / "x.png")), row(7, question="<image> again")]
    path = write(folder / "a.jsonl", *rows, tail="not json\n[1]\n" + json.dumps(row(8))[:30])
    code, found = check(path)
    assert code == 2
    assert found["faults"] == {
        "no-answer": 1, "untagged-answer": 1, "picture missing": 1, "picture unreadable": 1,
        "picture outside the folder": 1,
        "marks and pictures differ": 1, "broken record": 3,
    }  # fmt: skip
    assert (found["records"], found["good"]) == (10, 1)
    assert [line.split(":")[0] for line in found["first"]["broken record"]] == [
        f"{path}, record line {number}" for number in (8, 9, 10)
    ]
    printed = capsys.readouterr()
    assert "10 records, 1 can be used, 9 cannot" in printed.out
    assert printed.err.strip().splitlines() == [
        f"balanced: {path}: 9 of 10 records cannot be used; see what is said of each kind above, or write a clean copy "
        "without them with --fix"
    ]


def test_figures_by_hand(folder, capsys):
    rows = [row(1), row(1), row(2, GOOD.replace(":B", ":C")), row(3, image="copy.png"), row(4, image="b.png")]
    test = write(folder / "test.jsonl", row(9))
    code, found = check(write(folder / "a.jsonl", *rows), "--test", test, "--max_length", 15)
    assert code == 0
    assert found["totals"] == {"question": 5 * 2, "think": 5 * 13, "answer": 5}
    assert found["lengths"]["all"] == {"p5": 16, "p50": 16, "p95": 16, "p99": 16, "max": 16}
    assert found["answer_share"] == pytest.approx(5 / 70)
    # By content the copy is the same picture: rows 1 to 4 ask the same; row 3 has another answer.
    assert (found["repeated"], found["contradicting"], found["too_long"]) == (2, 1, 5)
    assert (found["pictures"], found["shared"]) == (2, 1)
    printed = capsys.readouterr().out
    assert f"1 of 2 pictures are in {test} too" in printed
    assert "5 records have more than 15 characters of text; sft refuses such rows" in printed
    assert "the answer is 7.1 % of what plain SFT trains: a token mean gives the trace 13 times its weight" in printed
    _, alone = check(folder / "a.jsonl")  # what repeats does not depend on what else is asked
    assert (alone["repeated"], alone["contradicting"], alone["pictures"]) == (2, 1, 2)


def test_pictures_that_may_surprise_are_counted(folder, capsys):
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(folder / "glass.png")
    Image.new("RGB", (2000, 2)).save(folder / "line.png")
    rows = [row(n, image=f"{name}.png") for n, name in enumerate(("a", "line"))]
    path = write(folder / "a.jsonl", *rows, row(3, question="<image>same?", image=["glass.png", "glass.png"]))
    assert check(path)[0] == 0
    printed = capsys.readouterr().out
    assert "in 1 records a picture has an alpha channel; what is transparent is shown on white" in printed
    assert "in 1 records a picture is over 200 times as long as wide, which Qwen's models refuse" in printed


def test_blank_lines_and_a_folder_that_is_none(folder, capsys):
    (folder / "t.csv").write_text("image;question;reasoning;answer\na.png;Q?;so;yes\n;;;\n")
    code, found = check(folder / "t.csv")
    assert (code, found["records"], found["good"]) == (0, 1, 1)
    assert "in 1 records nothing stands in any column" in capsys.readouterr().out
    assert main(["check-data", str(folder / "t.csv"), "--image_root", str(folder / "imagse")]) == 2
    assert f"image_root {folder / 'imagse'} is no folder; check the path" in capsys.readouterr().err
    assert main(["check-data", str(folder / "t.csv"), "--tokenizer", "tiny-qwen2_5"]) == 2
    assert "there is no model 'tiny-qwen2_5'; did you mean tiny-qwen2_5_vl?" in capsys.readouterr().err


def test_tokens_of_a_preset_are_counted_without_torch(folder):
    _, found = check(write(folder / "a.jsonl", row(1)), "--tokenizer", "tiny-qwen2_5_vl")
    assert found["unit"] == "tokens"
    assert found["totals"]["answer"] == 1


def test_the_clean_copy_is_clean_and_nothing_is_lost(folder, capsys):
    path = write(folder / "a.jsonl", row(1), row(2, "<think>t"), row(3), tail="{")
    code, found = check(path, "--fix", folder / "clean.jsonl")
    assert (code, found["good"]) == (0, 2)
    assert [e.id for e in load_examples(folder / "clean.jsonl")] == ["1", "3"]
    left = [json.loads(line) for line in (folder / "clean.left_out.jsonl").read_text().splitlines()]
    assert [each["record"] for each in left] == ["2 (line 2)", "line 4"]
    assert left[0]["kind"] == "unclosed-think"
    assert check(folder / "clean.jsonl")[1]["faults"] == {}
    with pytest.raises(FileNotFoundError):
        check(path.with_name("none.jsonl"), "--fix", folder / "c.jsonl")
    assert main(["check-data", str(path), "--fix", str(folder / "clean.jsonl")]) == 2
    assert "clean.jsonl is there already" in capsys.readouterr().err


def test_a_part_is_held_out_by_picture(folder, capsys):
    rows = []
    for number in range(40):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / f"{number}.png")
        rows += [row(f"{number}-{k}", image=f"{number}.png", question=f"Q{k}?") for k in range(3)]
        rows.append(row(f"{number}-two", image=[f"{number}.png", f"{(number + 1) % 40}.png"], question="<image> Same?"))
    path = write(folder / "a.jsonl", *rows)
    assert check(path, "--fix", folder / "c.jsonl", "--hold_out", "0.25")[0] == 0
    parts = [list(load_examples(folder / name)) for name in ("c.jsonl", "c.test.jsonl")]
    left = [json.loads(line) for line in (folder / "c.left_out.jsonl").read_text().splitlines()]
    assert {each["kind"] for each in left} == {"pictures of both parts"}
    assert len(parts[0]) + len(parts[1]) + len(left) == 160
    pictures = [{image for example in part for image in example.images} for part in parts]
    assert not pictures[0] & pictures[1]
    assert 4 <= len(pictures[1]) <= 16
    assert check(folder / "c.jsonl", "--test", folder / "c.test.jsonl")[1]["shared"] == 0
    assert main(["check-data", str(path), "--hold_out", "0.5"]) == 2
    assert "--hold_out must lie between 0 and 1, and needs --fix" in capsys.readouterr().err


def test_encoded_pictures_become_files_of_the_copy(folder):
    from datasets import Dataset

    encoded = (folder / "b.png").read_bytes()
    rows = [{"images": [{"bytes": encoded, "path": None}], "problem": "<image>Find x.", "answer": "3"}]
    Dataset.from_list(rows).to_parquet(folder / "p.parquet")
    assert check(folder / "p.parquet", "--on_missing", "train", "--fix", folder / "c.jsonl")[0] == 0
    (example,) = load_examples(folder / "c.jsonl", on_missing="train")
    assert open(example.images[0], "rb").read() == encoded  # noqa: PTH123, SIM115


def test_a_test_set_without_traces_and_with_other_columns_is_compared_all_the_same(folder):
    (folder / "mine.csv").write_text("bild,frage,weg,antwort\na.png,Q?,so,yes\nb.png,Q?,so,no\n")
    columns = json.dumps({"image": "bild", "question": "frage", "reasoning": "weg", "answer": "antwort"})
    (folder / "test.csv").write_text("image,question,answer\ncopy.png,Q?,yes\nnone.png,Q?,yes\n")
    code, found = check(folder / "mine.csv", "--columns", columns, "--test", folder / "test.csv")
    assert (code, found["shared"], found["unreadable_in_other"]) == (0, 1, 1)
    with pytest.raises(FileNotFoundError):  # nothing was written: the other file is opened first
        check(folder / "a.jsonl", "--test", folder / "none.csv", "--fix", folder / "c.jsonl")
    assert not list(folder.glob("*.part"))


@pytest.mark.parametrize("response", ["<think>t</think>B", "B", ""])
def test_pictures_are_compared_without_an_answer(folder, capsys, response):
    """A leak was told as "0 of 2 pictures", since no record of the test set has an answer in tags."""
    path = write(folder / "a.jsonl", row(1, "<think>t</think>B"), row(2, "<think>t</think>B", "b.png"))
    messages = [{"role": "user", "content": [{"type": "image", "path": "copy.png"}, {"type": "text", "text": "Q?"}]}]
    write(folder / "test.jsonl", row(1, response, "copy.png"))
    write(folder / "qwen.jsonl", {"messages": [*messages, {"role": "assistant", "content": response}]})
    for test in ("test.jsonl", "qwen.jsonl"):
        code, found = check(path, "--answer_from", "after_think", "--test", folder / test)
        assert (code, found["shared"], found["unreadable_in_other"]) == (0, 1, 0)
        assert f"\n1 of 2 pictures are in {folder / test} too\n" in capsys.readouterr().out


def test_a_response_that_cannot_be_trained_names_its_line(folder):
    """It was record 5 alone."""
    row_of_tag = {"id": 5, "prompt": "Q?", "completion": "<think>a</think>b", "answer": "x</answer>y"}
    path = write(folder / "a.jsonl", row_of_tag)
    _, found = check(path, "--answer_from", "field")
    (lines,) = found["first"].values()
    assert lines[0].startswith(f"{path}, record 5 (line 1), field answer: the text holds </answer> itself; take")


def test_records_that_cannot_be_compared_leave_no_bare_number(folder, capsys):
    path, test = write(folder / "a.jsonl", row(1)), folder / "test.jsonl"
    write(test, row(1, image="none.png"), row(2, image="copy.png"))
    check(path, "--test", test)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "at least" in line]
    told = (
        f"at least 1 of 1 pictures are in {test} too; 1 of its 2 records cannot be compared ({test}, record 1 (line 1),"
    )
    assert line.startswith(told)
    for other in (row(1, image="none.png"), {"question": "Q?", "answer": "x", "photograph": "copy.png"}):
        write(test, other)
        check(path, "--test", test)
        out = capsys.readouterr().out
        assert f"no picture was compared: none of the 1 records of {test} can be ({test}" in out
        assert "pictures are in" not in out


def test_no_output_is_left_of_a_check_that_failed(folder, capsys):
    path = write(folder / "a.jsonl", row(1))
    for options, message in (
        (["--fix", str(folder / "a.png" / "c.jsonl")], "cannot be written"),
        (["--fix", str(folder / "c.jsonl"), "--test", str(folder / "none.jsonl")], "no such file"),
        (["--json", str(folder / "a.png" / "c.json")], "cannot be written"),
    ):
        assert main(["check-data", str(path), *options]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert message in lines[0]
    assert not list(folder.glob("c.*"))


def test_a_copy_that_cannot_be_written_is_one_line_before_the_audit(folder, capsys):
    (folder / "c.left_out.jsonl.part").mkdir()
    assert main(["check-data", str(folder / "none.jsonl"), "--fix", str(folder / "c.jsonl")]) == 2
    line = capsys.readouterr().err
    assert f"{folder / 'c.left_out.jsonl.part'} cannot be written (Is a directory); choose another place" in line
    assert not (folder / "c.jsonl.part").exists()


def test_bad_options_are_one_line(folder, capsys, monkeypatch):
    monkeypatch.setenv("BALANCED_THINKING_CACHE", str(folder / "cache"))
    path = write(folder / "a.jsonl", row(1))
    for options, message in (
        (["--columns", "{"], "columns must be JSON"),
        (["--dataset_format", "x"], "data format 'x' is unknown"),
        (["--fix", "out.csv"], "--fix must name a .jsonl file"),
        (["--tokenizer", str(folder)], "no tokenizer.json"),
        (["--on_mising", "x"], "did you mean --on_missing?"),
        (["--max_length", "-5"], "must be a whole number of at least 1, not -5"),
        (["--max_length", "0"], "must be a whole number of at least 1, not 0"),
        (["--json", str(folder)], "is a folder; name a file in it"),
        (
            ["--tokenizer", "tiny-gemma3"],
            "is not built yet; `balanced presets build tiny-gemma3` makes it, or take tiny-",
        ),
    ):
        assert main(["check-data", str(path), *options]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert message in lines[0]


def test_what_was_said_before_tells_questions_apart(folder):
    """And counts in their length."""
    rows = []
    for number, (before, answer) in enumerate([("one", "1"), ("two", "2"), ("one", "1"), ("one", "3")]):
        turns = [{"from": "human", "value": f"<image>{before}"}, {"from": "gpt", "value": "x"}]
        turns += [
            {"from": "human", "value": "Now?"},
            {"from": "gpt", "value": f"<think>t</think><answer>{answer}</answer>"},
        ]
        rows.append({"id": number, "image": "a.png", "conversations": turns})
    code, found = check(write(folder / "a.jsonl", *rows), "--max_length", 11)
    assert (code, found["repeated"], found["contradicting"]) == (0, 1, 1)
    assert found["too_long"] == 4
    _, found = check(write(folder / "b.jsonl", *rows), "--max_length", 12)
    assert found["too_long"] == 0


# Pictures -------------------------------------------------------------------------------------------------------------


def table(path, *columns, separator=",", picture="a.png"):
    lines = [separator.join(columns), *(separator.join([picture, f"Q{number}?", "so", "yes"]) for number in range(3))]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_records_with_pictures_are_counted(folder, capsys):
    rows = [row(1), {"id": 2, "conversations": row(2, question="")["conversations"]}, row(3)]
    rows[1]["conversations"][0]["value"] = "No picture?"
    code, found = check(write(folder / "a.jsonl", *rows))
    assert (code, found["with_pictures"]) == (0, 2)
    assert "2 of 3 records have pictures" in capsys.readouterr().out


def test_pictures_in_a_column_of_another_name_are_no_text_only_data(folder, capsys):
    path = table(folder / "t.csv", "picture", "question", "reasoning", "answer")
    code, found = check(path, "--fix", folder / "c.jsonl")
    assert (code, found["with_pictures"]) == (2, 0)
    columns = '{"image": "picture"}'
    assert found["notes"][f"the field picture is not read; did you mean image? --columns '{columns}'"] == 3
    printed = capsys.readouterr()
    assert "0 of 3 records have pictures" in printed.out
    assert printed.err.strip().splitlines() == [
        f"balanced: {path}, field picture: no record has a picture, but this field, which is not read, holds pictures; "
        f"name it with --columns '{columns}' (in Python columns=), or take it out of the data if the questions can do "
        "without"
    ]
    assert not list(folder.glob("c.*"))
    assert check(path, "--columns", columns)[0] == 0


def test_missing_reasoning_can_be_left_out(folder, capsys):
    path = write(folder / "a.jsonl", row(1), row(2, "<answer>B</answer>"), row(3, "<think>t</think>"))
    code, found = check(path, "--on_missing", "skip", "--fix", folder / "c.jsonl")
    assert (code, found["good"], found["faults"]) == (0, 1, {})
    assert found["skipped"] == {"no-think": 1, "no-answer": 1}
    assert "3 records, 1 can be used, 0 cannot, 2 are left out" in capsys.readouterr().out
    left = [json.loads(line)["kind"] for line in (folder / "c.left_out.jsonl").read_text().splitlines()]
    assert left == ["no-think", "no-answer"]
    assert check(path, "--on_missing", "skip")[0] == 0


def test_a_copied_folder_can_be_read_elsewhere(folder, capsys):
    (folder / "laptop").mkdir()
    shutil.copy(folder / "a.png", folder / "laptop" / "a.png")
    check(write(folder / "laptop" / "a.jsonl", row(1)), "--fix", folder / "laptop" / "c.jsonl")
    assert f"so {folder / 'laptop'} can be copied elsewhere as a whole" in capsys.readouterr().out
    (folder / "laptop").rename(folder / "server")
    (example,) = load_examples(folder / "server" / "c.jsonl")
    assert example.images == (str(folder / "server" / "a.png"),)


def test_pictures_beside_the_copy_keep_their_full_path(folder, capsys):
    (folder / "data").mkdir()
    shutil.copy(folder / "a.png", folder / "data" / "a.png")
    check(write(folder / "data" / "a.jsonl", row(1)), "--fix", folder / "copies" / "c.jsonl")
    assert f"read it with image_root {folder / 'data'}\n" in capsys.readouterr().out
    (example,) = load_examples(folder / "copies" / "c.jsonl", image_root=folder / "data")
    assert example.images == (str(folder / "data" / "a.png"),)


def test_training_can_split_what_was_held_out_from(folder):
    """Both splits once drew the same numbers, so of what was left no picture was below a smaller share."""
    for number in range(300):
        Image.new("RGB", (4, 4), (number % 256, number // 256, 7)).save(folder / f"{number}.png")
    path = write(folder / "a.jsonl", *(row(number, image=f"{number}.png") for number in range(300)))
    assert check(path, "--fix", folder / "c.jsonl", "--hold_out", "0.2")[0] == 0
    rest = list(load_examples(folder / "c.jsonl"))
    assert 220 < len(rest) < 260
    again = [example for example in rest if is_held_out(example, 0.05)]
    assert 4 <= len(again) <= 22


def test_a_split_with_all_on_one_side_is_refused(folder, capsys):
    path = write(folder / "a.jsonl", row(1), row(2))
    assert main(["check-data", str(path), "--fix", str(folder / "c.jsonl"), "--hold_out", "0.5"]) == 2
    assert "--hold_out 0.5 leaves " in capsys.readouterr().err
    assert not list(folder.glob("c.*"))


def test_faults_of_a_table_are_counted_each_with_its_line(folder):
    rows = ["image,question,reasoning,answer", "a.png,Q1?,so, it is,yes", 'a.png,"Q2', 'goes on?",so,no']
    rows += ['a.png,"Q3" x,so,no', "", "a.png,Q4?,so,no", 'a.png,"Q5?,so,no', "a.png,Q6?,so,no"]
    (folder / "t.csv").write_text("\n".join(rows) + "\n")
    code, found = check(folder / "t.csv")
    assert (code, found["records"], found["good"]) == (2, 5, 2)
    first = found["first"]["broken record"]
    assert [line.split(":")[0].rsplit(" ", 1)[1] for line in first] == ["2", "5", "8"]
    assert "(unexpected end of data, read to line 9)" in first[2]


@pytest.mark.parametrize(("separator", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_tables_of_other_separators_are_read(folder, separator, name):
    names = ("image", "question", '"reasoning, long"', "answer")
    path = table(folder / "t.csv", *names, separator=separator)
    code, found = check(path, "--columns", '{"reasoning": "reasoning, long"}')
    assert (code, found["good"], found["with_pictures"]) == (0, 3, 3)
    assert found["reason"].endswith(f"and its cells are parted by {name}")
