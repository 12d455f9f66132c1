"""``balanced bench data``: how fast a large data file is read and checked, and that its length costs no memory.

Each arm reads the file in a process of its own, at a tenth of the records and at all of them:

    check   what ``balanced check-data`` does
    train   what a training run does: examples, then rows in an Arrow file
    list    the usual script: every line into a list, the list into a ``datasets.Dataset``; it checks nothing

What it leaves out: pictures' pixels, which are read when a batch is made. All records show one picture.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from balanced_thinking.compare import timing
from balanced_thinking.errors import ConfigError

WORDS = 300  # of a trace, as in Vision-R1's data
_SHARES = (10, 1)


def bench_data(rows: int = 200_000, *, pairs: int = 3, progress: bool = True) -> dict[str, Any]:
    """Medians of seconds and peak memory over ``pairs`` rounds in which every arm has its turn.

    Returns:
        Ready for JSON: ``rows``, ``pairs``, ``megabytes``, ``machine``, ``arms``.

    Raises:
        ConfigError: fewer than 10 rows, or no round.
    """
    for name, value, least in (("rows", rows, 10), ("pairs", pairs, 1)):
        if value < least:
            raise ConfigError(f"{name} must be at least {least}, got {value}")
    load_before = timing.load_average()
    arms: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory() as folder, timing.bar(progress) as bar:
        task = bar.add_task("bench data", total=len(_SHARES) * len(ARMS) * pairs)
        for share in _SHARES:
            file = _write(Path(folder), rows // share)
            measured: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
            for _ in range(pairs):
                for arm, found in measured.items():
                    found.append(_measured(arm, file))
                    bar.advance(task)
            for arm, found in measured.items():
                medians = {name: statistics.median(run[name] for run in found) for name in found[0]}
                arms[arm].append({"rows": rows // share, **medians})
        megabytes = file.stat().st_size / 1e6
    return {"rows": rows, "pairs": pairs, "megabytes": megabytes, "machine": timing.machine(load_before), "arms": arms}


def format_data_table(result: Mapping[str, Any]) -> str:
    """The result of ``bench_data`` as text."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="reading a data file", title_justify="left")
    for column in ("arm", "records", "wall s", "CPU s", "records / CPU s", "train / arm, CPU", "peak MB"):
        table.add_column(column, justify="left" if column == "arm" else "right", no_wrap=True)
    for arm, runs in result["arms"].items():
        for run, ours in zip(runs, result["arms"]["train"], strict=True):
            seconds = [f"{run[name]:.1f}" for name in ("wall_s", "cpu_s")]
            speed = f"{run['rows'] / run['cpu_s']:,.0f}"
            ratio = "" if arm == "train" else f"{ours['cpu_s'] / run['cpu_s']:.2f}"
            table.add_row(arm, f"{run['rows']:,}", *seconds, speed, ratio, f"{run['peak_mb']:,.0f}")
    console = Console(width=120, color_system=None)
    with console.capture() as captured:
        size = f"{result['megabytes']:,.0f} MB of JSON lines, traces of {WORDS} words"
        console.print(f"{size}; medians of {result['pairs']} rounds")
        console.print(timing.machine_line(result["machine"]))
        console.print(table)
    return captured.get().rstrip()


def _write(folder: Path, rows: int) -> Path:
    """A file in the form of Vision-R1's data; every trace differs."""
    from PIL import Image

    Image.new("RGB", (32, 32), (200, 30, 30)).save(folder / "a.png")
    file = folder / f"{rows}.jsonl"
    with file.open("w", encoding="utf-8") as out:
        for number in range(rows):
            think = " ".join(f"w{(number * 31 + place * 7) % 5003}" for place in range(WORDS))
            response = f"<think> {think} </think><answer> Final Answer:{number % 7} </answer>"
            turns = [{"from": "human", "value": f"<image>\nQuestion {number}?"}, {"from": "gpt", "value": response}]
            out.write(json.dumps({"id": str(number), "image": "a.png", "conversations": turns}) + "\n")
    return file


def _measured(arm: str, file: Path) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-m", __name__, arm, str(file)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"reading by {arm} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _check(file: Path) -> int:
    from balanced_thinking.data.audit import audit
    from balanced_thinking.data.formats.options import Options

    return audit(file, options=Options()).good


def _train(file: Path) -> int:
    from balanced_thinking.training.dataset import DataArguments, load_data

    dataset, _ = load_data(DataArguments(dataset=[str(file)]), folder=file.with_name("rows"))
    return len(dataset)


def _list(file: Path) -> int:
    from datasets import Dataset

    with file.open(encoding="utf-8") as lines:
        return len(Dataset.from_list([json.loads(line) for line in lines]))


ARMS: Mapping[str, Callable[[Path], int]] = {"check": _check, "train": _train, "list": _list}


def _main(arm: str, file: str) -> None:
    """What the process of ``_measured`` does; the seconds leave imports out, the peak holds them."""
    small = Path(file).with_name("warm.jsonl")
    with Path(file).open(encoding="utf-8") as lines:
        small.write_text(next(lines), encoding="utf-8")
    ARMS[arm](small)
    started = time.perf_counter(), time.process_time()
    ARMS[arm](Path(file))
    wall, cpu = time.perf_counter() - started[0], time.process_time() - started[1]
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024
    print(json.dumps({"wall_s": wall, "cpu_s": cpu, "peak_mb": kilobytes * unit / 1e6}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
