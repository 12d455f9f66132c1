"""``runinfo``: folders that appear whole or not at all, files never half-written, lines that survive a kill."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from balanced_thinking import runinfo
from balanced_thinking.errors import ConfigError, DataError, EvaluationError
from balanced_thinking.runinfo import (
    append_jsonl,
    build_once,
    cache_dir,
    check_writable,
    content_hash,
    package_versions,
    read_jsonl,
    run_info,
    source_commit,
    weights_digest,
    write_json,
    write_text,
    writing,
)


def test_cache_dir_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("BALANCED_THINKING_CACHE", str(tmp_path / "c"))
    assert cache_dir() == tmp_path / "c"
    monkeypatch.setenv("BALANCED_THINKING_CACHE", "~/c")
    assert cache_dir() == Path.home() / "c"


@pytest.mark.parametrize("value", [None, ""])
def test_cache_dir_has_a_default(monkeypatch, value):
    monkeypatch.delenv("BALANCED_THINKING_CACHE", raising=False)
    if value is not None:
        monkeypatch.setenv("BALANCED_THINKING_CACHE", value)
    assert cache_dir() == Path.home() / ".cache" / "balanced-thinking"


def test_the_hash_is_that_of_the_sorted_json():
    import hashlib

    assert content_hash({"b": 1, "a": "é"}) == hashlib.sha256('{"a": "é", "b": 1}'.encode()).hexdigest()[:16]


def test_key_order_does_not_matter_and_list_order_does():
    assert content_hash({"a": 1, "b": {"c": 2, "d": 3}}) == content_hash({"b": {"d": 3, "c": 2}, "a": 1})
    assert content_hash([1, 2]) != content_hash([2, 1])


@pytest.mark.parametrize("value", [{}, {"a": 2}, {"a": "1"}, {"a": 1.5}, {"a": None}, [], ["a", 1]])
def test_other_content_has_another_hash(value):
    assert content_hash(value) != content_hash({"a": 1})


def test_paths_count_as_text_and_the_length_is_free():
    assert content_hash({"p": Path("x/y")}) == content_hash({"p": "x/y"})
    assert len(content_hash(1, length=40)) == 40
    assert content_hash(1, length=40).startswith(content_hash(1))


def test_sets_hash_the_same_in_every_process():
    code = "from balanced_thinking.runinfo import content_hash; print(content_hash({'s': {'a', 'b', 'c', 'd', 'e'}}))"
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(hashes) == 1


def test_build_once_builds_once(tmp_path):
    calls = []

    def build(folder):
        calls.append(folder)
        (folder / "a.txt").write_text("x")

    target = tmp_path / "deep" / "target"
    assert build_once(target, build) == target
    assert build_once(target, build) == target
    assert len(calls) == 1
    assert calls[0] != target
    assert (target / "a.txt").read_text() == "x"
    assert shown(target.parent) == ["target"]
    assert target.stat().st_mode & 0o777 == 0o755


def test_a_failed_build_leaves_nothing(tmp_path):
    def build(folder):
        (folder / "half").write_text("x")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        build_once(tmp_path / "target", build)
    assert shown(tmp_path) == []


def test_of_two_builds_at_once_the_second_waits_for_the_first(tmp_path):
    built, results = [], []

    def build(folder):
        built.append(threading.current_thread().name)
        time.sleep(0.2)
        (folder / "a.txt").write_text("x")

    threads = [threading.Thread(target=lambda: results.append(build_once(tmp_path / "t", build))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [tmp_path / "t"] * 3
    assert len(built) == 1
    assert shown(tmp_path) == ["t"]


def shown(folder):
    """What stands in a folder, but for the lock files."""
    return sorted(item.name for item in folder.iterdir() if not item.name.endswith(".lock"))


def test_a_killed_build_is_not_taken_for_a_whole_one(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from balanced_thinking.runinfo import build_once\n"
        "def build(folder):\n"
        "    (folder / 'half').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "build_once(Path(sys.argv[1]), build)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "t")], check=False)
    assert done.returncode == -9
    assert not (tmp_path / "t").exists()
    build_once(tmp_path / "t", lambda folder: (folder / "whole").write_text("x"))
    assert [item.name for item in (tmp_path / "t").iterdir()] == ["whole"]


def test_leftovers_go_after_a_day_and_not_before(tmp_path):
    old, new = tmp_path / ".t.building-old", tmp_path / ".t.building-new"
    for folder in (old, new):
        folder.mkdir()
    os.utime(old, (time.time() - 90_000,) * 2)
    build_once(tmp_path / "t", lambda folder: None)
    assert shown(tmp_path) == [".t.building-new", "t"]


def test_write_text_replaces_whole_files(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "old")
    write_text(path, "neu: ä")
    assert path.read_bytes() == "neu: ä".encode()
    assert [item.name for item in path.parent.iterdir()] == ["a.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


def test_write_json_is_readable_and_complete(tmp_path):
    write_json(tmp_path / "a.json", {"ä": [1, Path("x")]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text == '{\n  "ä": [\n    1,\n    "x"\n  ]\n}\n'


def test_what_the_system_refuses_to_write_is_one_line_with_a_remedy(tmp_path):
    there = tmp_path / "file"
    there.write_text("")
    with pytest.raises(
        ConfigError, match=r"file/x cannot be written \((File exists|Not a directory)\); choose another"
    ):
        check_writable(there / "x")
    full = pytest.raises(EvaluationError, match=r"a\.json cannot be written \(No space left on device\); mend it")
    with full, writing(tmp_path / "a.json", "mend it", error=EvaluationError):
        raise OSError(28, "No space left on device")
    with pytest.raises(ConfigError, match=r"\(half a header\)"), writing(there):
        raise OSError("half a header")  # what libraries raise without a number
    check_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []


def test_lines_come_back_as_they_were_appended(tmp_path):
    path, rows = tmp_path / "deep" / "a.jsonl", [{"a": 1}, {"b": "é\n"}, {}]
    for row in rows:
        append_jsonl(path, row)
    assert read_jsonl(path) == rows
    assert path.read_bytes().count(b"\n") == 3


def test_no_file_is_no_rows(tmp_path):
    assert read_jsonl(tmp_path / "none.jsonl") == []
    (tmp_path / "empty.jsonl").touch()
    assert read_jsonl(tmp_path / "empty.jsonl") == []


@pytest.mark.parametrize("torn", ['{"b":', '{"b": "é', "{", '{"b": 2', '{"b"\n', '{"b"\n\n \n'])
def test_a_torn_last_line_is_left_out(tmp_path, torn):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n' + torn.encode())
    assert read_jsonl(path) == [{"a": 1}]


def test_a_line_torn_within_a_character_is_left_out(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n' + '{"b": "é'.encode()[:-1])
    assert read_jsonl(tmp_path / "a.jsonl") == [{"a": 1}]


def test_a_whole_last_line_without_line_end_counts(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"b": 2}')
    assert read_jsonl(tmp_path / "a.jsonl") == [{"a": 1}, {"b": 2}]


def test_blank_lines_are_no_rows(tmp_path):
    (tmp_path / "a.jsonl").write_text('\n{"a": 1}\n\n  \n{"b": 2}\n')
    assert read_jsonl(tmp_path / "a.jsonl") == [{"a": 1}, {"b": 2}]


def test_a_broken_line_before_the_last_is_an_error(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"b":\n{"c": 3}\n')
    with pytest.raises(DataError, match=r"a\.jsonl, record line 2: not a line of JSON"):
        read_jsonl(path)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"a": 1}\n{"b":', [{"a": 1}, {"c": 3}]),
        (b'{"b":', [{"c": 3}]),
        (b'{"a": 1}\n{"b": 2}', [{"a": 1}, {"b": 2}, {"c": 3}]),
        (b'{"a": 1}\n' + '{"b": "é'.encode()[:-1], [{"a": 1}, {"c": 3}]),
        (b"", [{"c": 3}]),
    ],
)
def test_appending_after_a_kill_spoils_nothing(tmp_path, before, after):
    path = tmp_path / "a.jsonl"
    path.write_bytes(before)
    append_jsonl(path, {"c": 3})
    append_jsonl(path, {"d": 4})
    assert read_jsonl(path) == [*after, {"d": 4}]


def test_run_info_holds_what_a_run_needs_to_explain_itself(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    info = run_info({"lr": 1e-3}, device="cpu", seed=7)
    assert info["config"] == {"lr": 1e-3}
    assert (info["seed"], info["device"], info["threads"], info["cores"]) == (7, "cpu", 2, os.cpu_count())
    assert info["packages"]["balanced-thinking"] == "0.1.0"
    assert info["packages"]["torch"]
    assert set(info) >= {"python", "platform", "commit", "command", "started"}
    json.dumps(info)


@pytest.mark.parametrize(("value", "threads"), [("3", 3), ("4,2", 4), ("", None), ("many", None)])
def test_threads_are_read_as_openmp_reads_them(monkeypatch, value, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert run_info({})["threads"] == (threads or os.cpu_count())


def test_a_package_that_is_not_there_is_none(monkeypatch):
    monkeypatch.setattr(runinfo, "PACKAGES", ("numpy", "surely-not-installed"))
    versions = package_versions()
    assert versions["numpy"]
    assert versions["surely-not-installed"] is None


def test_outside_a_checkout_there_is_no_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(runinfo, "__file__", str(tmp_path / "src" / "balanced_thinking" / "runinfo.py"))
    assert source_commit() is None


def test_in_a_checkout_the_commit_marks_changes(monkeypatch, tmp_path):
    monkeypatch.setattr(runinfo, "__file__", str(tmp_path / "src" / "balanced_thinking" / "runinfo.py"))
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@x"]
    (tmp_path / "a").write_text("1")
    for arguments in (["init", "-q"], ["add", "a"], ["commit", "-q", "-m", "m"]):
        subprocess.run([*git, *arguments], check=True)
    commit = source_commit()
    assert commit is not None
    assert len(commit) == 12
    (tmp_path / "a").write_text("2")
    assert source_commit() == f"{commit}+changes"


def test_weights_are_told_apart_wherever_they_differ(tmp_path):
    """What LoRA changes can lie between embeddings and a frozen tower, far from both ends of the file."""
    data = bytearray(5 << 20)
    for name in ("a", "moved"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(data)
    assert weights_digest(tmp_path / "a") == weights_digest(tmp_path / "moved")
    data[len(data) // 2] = 1
    (tmp_path / "moved" / "model.safetensors").write_bytes(data)
    assert weights_digest(tmp_path / "a") != weights_digest(tmp_path / "moved")
    assert weights_digest(tmp_path) is None
