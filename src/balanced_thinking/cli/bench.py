"""``balanced bench``: ratios against naive code and TRL, measured in one run."""

from collections.abc import Sequence


def run(argv: Sequence[str]) -> int:
    """``loss``, ``sft`` or ``grpo``; prints a table, and writes JSON with ``--json``."""
    from balanced_thinking.cli.parsing import OneLineParser

    parser = OneLineParser(prog="balanced bench", description=__doc__)
    parser.add_argument("what", choices=("loss", "sft", "grpo"), help="the head alone, or a whole step")
    parser.add_argument("--pairs", type=int, help="timed rounds; unset: 11 for loss, 21 for steps")
    parser.add_argument("--threads", type=int, help="threads of torch; unset: torch's own choice")
    parser.add_argument("--rows", type=int, help="positions of the batch (loss), rows or completions of a step")
    parser.add_argument("--trained", type=float, help="loss: share of positions with weight")
    parser.add_argument("--dim", type=int, help="loss: width of the hidden states")
    parser.add_argument("--vocab", type=int, help="loss: size of the vocabulary")
    parser.add_argument("--dtypes", nargs="+", help="loss: float32, bfloat16, float16")
    parser.add_argument("--arms", nargs="+", help="loss: naive, gather, trl (the slowest)")
    parser.add_argument("--model", default="tiny-qwen2_5_vl", help="steps: preset, folder or hub id")
    parser.add_argument("--dataset", default="icons", help="steps: benchmark or data file")
    parser.add_argument("--json", help="also write the result to this file")
    options = parser.parse_all(argv)

    from pathlib import Path

    from balanced_thinking.runinfo import write_json

    names = ["pairs", "threads", "rows"] + (
        ["trained", "dim", "vocab", "dtypes", "arms"] if options.what == "loss" else []
    )
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.what == "loss":
        from balanced_thinking.compare.bench import LossBenchOptions, bench_loss, format_table

        for name in {"dtypes", "arms"} & set(given):
            given[name] = tuple(given[name])
        result = bench_loss(LossBenchOptions(**given))
        print(format_table(result))
    else:
        from balanced_thinking.compare.bench_step import StepBenchOptions, bench_step, format_step_table
        from balanced_thinking.demo.presets import resolve

        model = str(resolve(options.model))
        given = {"kind": options.what, "model": model, "dataset": options.dataset, **given}
        result = bench_step(StepBenchOptions(**given))
        print(format_step_table(result))
    if options.json:
        write_json(Path(options.json), result)
    return 0
