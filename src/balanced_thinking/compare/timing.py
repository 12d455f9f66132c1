"""Paired timing on a machine that is not ours alone: rounds in which every arm runs once, in random order.

What counts is the median over rounds of first arm / other arm, with its 20 % and 80 % quantiles, since load moves both
arms alike. What it leaves out: what is timed (``bench``, ``bench_step``) and memory.
"""

import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

Seconds = list[tuple[float, float]]


def rounds(
    arms: Mapping[str, Callable[[], Any]], *, pairs: int, warmup: int, seed: int, advance: Callable[[], None]
) -> dict[str, Seconds]:
    """(wall, CPU) seconds of every arm in each of ``pairs`` rounds, after ``warmup`` rounds that do not count."""
    order = random.Random(seed)
    seconds: dict[str, Seconds] = {arm: [] for arm in arms}
    for number in range(warmup + pairs):
        for arm in order.sample(list(arms), len(arms)):
            wall, cpu = time.perf_counter(), time.process_time()
            arms[arm]()
            if number >= warmup:
                seconds[arm].append((time.perf_counter() - wall, time.process_time() - cpu))
            advance()
    return seconds


def ratios(ours: Seconds, other: Seconds, *, goal: float | None) -> dict[str, Any]:
    """Median, 20 % and 80 % quantile and share of wins of ours / other, in wall and CPU time; the goal is for wall."""
    summary: dict[str, Any] = {}
    for position, clock in enumerate(("wall", "cpu")):
        found = sorted(a[position] / b[position] for a, b in zip(ours, other, strict=True))
        low, high = (found[round(share * (len(found) - 1))] for share in (0.2, 0.8))
        wins = sum(ratio < 1 for ratio in found) / len(found)
        summary[clock] = {"median": statistics.median(found), "p20": low, "p80": high, "wins": wins}
    return summary | {"goal": goal, "met": None if goal is None else summary["wall"]["median"] <= goal}


def ratio_cells(ratio: Mapping[str, Any] | None) -> list[str]:
    """Cells of a table: wall ratio, wins, CPU ratio, goal; empty for the first arm itself."""
    if ratio is None:
        return ["", "", "", ""]
    wall, cpu = (f"{r['median']:.2f} [{r['p20']:.2f}, {r['p80']:.2f}]" for r in (ratio["wall"], ratio["cpu"]))
    goal = "" if ratio["goal"] is None else f"<= {ratio['goal']} {'met' if ratio['met'] else 'MISSED'}"
    return [wall, f"{ratio['wall']['wins']:.0%}", cpu, goal]


def machine(load_before: str) -> dict[str, Any]:
    """Processor, threads, load before and after, and versions that decide speed."""
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "load_before": load_before,
        "load_after": load_average(),
        "torch": torch.__version__,
        "trl": version("trl"),
    }


def machine_line(found: Mapping[str, Any]) -> str:
    """One line about the machine, for the head of a table."""
    return (
        f"{found['processor']}, threads {found['threads']}, load average {found['load_before']} before and "
        f"{found['load_after']} after; torch {found['torch']}, trl {found['trl']}"
    )


def processor() -> str:
    """Model name and the instruction sets that decide how fast bfloat16 is."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    names = [line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")]
    found = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in text.split()]
    return " ".join([names[0] if names else platform.machine(), *found])


def load_average() -> str:
    """Of the last minute, where the system tells."""
    return f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "n/a"


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Run with so many threads of torch; None leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def bar(progress: bool) -> Progress:
    """A progress bar on stderr that leaves nothing behind."""
    return Progress(console=Console(stderr=True), transient=True, disable=not progress)
