"""``balanced bench``: ratios against naive code and TRL, measured in one run."""

from collections.abc import Sequence
from typing import Any


def run(argv: Sequence[str]) -> int:
    """``loss``, ``sft``, ``grpo``, ``order`` or ``data``; prints a table, and writes JSON with ``--json``."""
    from balanced_thinking.cli.parsing import OneLineParser

    parser = OneLineParser(prog="balanced bench", description=__doc__)
    parser.add_argument(
        "what", choices=("loss", "sft", "grpo", "order", "data"), help="the head, whole steps, or reading"
    )
    parser.add_argument("--pairs", type=int, help="timed rounds; unset: 11 for loss, 21 for steps, 3 for data")
    parser.add_argument("--threads", type=int, help="threads of torch; unset: torch's own choice")
    parser.add_argument(
        "--rows", type=int, help="positions of the batch (loss), completions or rows of a step, records"
    )
    parser.add_argument("--trained", type=float, help="loss: share of positions with weight")
    parser.add_argument("--dim", type=int, help="loss: width of the hidden states")
    parser.add_argument("--vocab", type=int, help="loss: size of the vocabulary")
    parser.add_argument("--dtypes", nargs="+", help="loss: float32, bfloat16, float16")
    parser.add_argument("--arms", nargs="+", help="loss: naive, gather, trl (the slowest)")
    parser.add_argument("--model", help="steps: preset, folder or hub id; unset: tiny-qwen2_5_vl")
    parser.add_argument("--dataset", help="steps: benchmark or data file; unset: icons")
    parser.add_argument("--json", help="also write the result to this file")
    options = parser.parse_all(argv)

    from pathlib import Path

    from balanced_thinking.errors import ConfigError
    from balanced_thinking.runinfo import write_json

    own = {
        "loss": ["threads", "trained", "dim", "vocab", "dtypes", "arms"],
        "sft": ["threads", "model", "dataset"],
        "grpo": ["threads", "model", "dataset"],
        "order": ["threads", "model", "dataset"],
        "data": [],
    }[options.what]
    given = {name: value for name, value in vars(options).items() if value is not None and name not in ("what", "json")}
    if foreign := [name for name in given if name not in ("pairs", "rows", *own)]:
        raise ConfigError(f"--{foreign[0]} does not apply to bench {options.what}; leave it out")
    if options.what == "loss":
        from balanced_thinking.compare.bench import LossBenchOptions, bench_loss, format_table

        for name in {"dtypes", "arms"} & set(given):
            given[name] = tuple(given[name])
        result = bench_loss(LossBenchOptions(**given))
        print(format_table(result))
    elif options.what == "data":
        from balanced_thinking.compare.bench_data import bench_data, format_data_table

        result = bench_data(**given)
        print(format_data_table(result))
    else:
        result = _bench_step(options.what, given)
    if options.json:
        write_json(Path(options.json), result)
    return 0


def _bench_step(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    from balanced_thinking.compare.bench_step import StepBenchOptions, bench_step, format_step_table
    from balanced_thinking.demo.presets import resolve

    named = given.get("model", "tiny-qwen2_5_vl")
    given["model"] = str(resolve(named))
    result = bench_step(StepBenchOptions(**{"kind": kind, "dataset": "icons", **given}))
    result["options"]["model"] = named  # where a preset lies is this machine's own
    print(format_step_table(result))
    return result
