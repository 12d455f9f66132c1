"""``balanced evaluate``: score a model on benchmarks or any readable data file."""

from collections.abc import Mapping, Sequence
from typing import Any


def run(argv: Sequence[str]) -> int:
    """Evaluate, print one line a benchmark, and leave the predictions beside the model."""
    options = _parse(argv)

    from pathlib import Path

    from balanced_thinking.cli.parsing import mapping_of, reading_of
    from balanced_thinking.core.segments import parse_segments
    from balanced_thinking.demo.presets import resolve
    from balanced_thinking.errors import ConfigError
    from balanced_thinking.evaluation.benchmarks import ask, check_reading, open_first
    from balanced_thinking.evaluation.engine import Engine, check_running
    from balanced_thinking.evaluation.evaluate import evaluate
    from balanced_thinking.evaluation.trained import prompting, trained_segments

    reading = reading_of(options)
    check_reading(options.benchmark, reading)
    names = [ask(benchmark, reading).name for benchmark in options.benchmark]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"two benchmarks are called {min(doubled)}; evaluate them into two folders")
    kwargs = mapping_of(options.chat_template_kwargs, name="chat_template_kwargs")
    backend_options = mapping_of(options.backend_options, name="backend_options")
    check_running(options.backend, options.dtype, backend_options or {})
    asked = parse_segments(options.scale_segments) if options.scale_segments else None
    _check_model(options)
    segments = asked or trained_segments(options.model)  # of a preset they are think and answer
    for benchmark in options.benchmark:  # all, before hours of the first
        open_first(benchmark, {"segments": segments, **reading})
    model = str(resolve(options.model))  # after all checks: a preset that does not ship is built for half an hour
    output_dir = Path(options.output_dir or model)
    system_prompt, template = prompting(model, options.system_prompt, kwargs, say=print)
    engine = Engine(model, options.backend, dtype=options.dtype, options=backend_options)
    for benchmark in options.benchmark:
        row = evaluate(
            engine,
            benchmark,
            output_dir=output_dir,
            limit=options.limit,
            max_new_tokens=options.max_new_tokens,
            batch_size=options.batch_size,
            blank_images=options.blank_images,
            system_prompt=system_prompt or "",  # what the run folder says is settled by now
            chat_template_kwargs=template,
            expects_think=not options.answers_only,
            reading=reading,
            segments=segments,
        )
        print(f"{benchmark}: {_told(row)}")
    return 0


def _check_model(options: Any) -> None:
    """Refuse a model that cannot be, and an evaluation that has no folder to go to; nothing is built or loaded."""
    from pathlib import Path

    from balanced_thinking.demo.presets import PRESETS, check_model_name
    from balanced_thinking.errors import ConfigError

    if options.output_dir is not None and Path(options.output_dir).exists() and not Path(options.output_dir).is_dir():
        raise ConfigError(f"{options.output_dir} is a file; name a folder")
    if options.output_dir is not None or Path(options.model).is_dir():
        check_model_name(options.model)
        return
    if options.model in PRESETS:
        raise ConfigError(f"give --output_dir: the model {options.model} is a preset, not a run folder of yours")
    raise ConfigError(
        f"there is no model folder and no preset {options.model!r} (presets: {', '.join(PRESETS)}); "
        "if it is a hub id, give --output_dir"
    )


def _parse(argv: Sequence[str]) -> Any:
    from balanced_thinking.cli.parsing import OneLineParser, add_reading
    from balanced_thinking.evaluation.benchmarks import BENCHMARKS
    from balanced_thinking.evaluation.benchmarks.published import PUBLISHED

    parser = OneLineParser(prog="balanced evaluate", description=__doc__)
    parser.add_argument("--model", required=True, help="preset, model folder or hub id")
    parser.add_argument(
        "--benchmark",
        required=True,
        nargs="+",
        help=f"data files, or any of {', '.join(BENCHMARKS)}; published ones, from the hub or as NAME=FOLDER: "
        f"{', '.join(PUBLISHED)}; NAME:SPLIT for another split",
    )
    parser.add_argument("--output_dir", help="folder for predictions and metrics; unset: the model's run folder")
    parser.add_argument("--limit", type=int, help="first so many questions only")
    parser.add_argument("--max_new_tokens", type=int, help="generation cap; unset: the benchmark's")
    parser.add_argument("--batch_size", type=int, help="questions at once; unset: chosen, lowered when memory is short")
    parser.add_argument("--backend", default="transformers", help="transformers or vllm")
    parser.add_argument(
        "--backend_options", help='for vllm: arguments of vllm.LLM as JSON: {"tensor_parallel_size": 2}'
    )
    parser.add_argument(
        "--dtype", default="auto", help="auto (as saved; float32 on the CPU), float32, bfloat16 or float16"
    )
    parser.add_argument("--blank_images", action="store_true", help="replace every picture by a grey one")
    parser.add_argument("--system_prompt", help="unset: as the run folder says; empty: none")
    parser.add_argument(
        "--chat_template_kwargs", help="options of the chat template as JSON; unset: as the run folder says; {}: none"
    )
    parser.add_argument(
        "--answers_only", action="store_true", help="the model answers without thinking (malformed: n/a)"
    )
    parser.add_argument("--scale_segments", help="what the model writes; unset: as its run folder says")
    add_reading(parser)
    return parser.parse_all(argv)


def _told(row: Mapping[str, Any]) -> str:
    malformed = "n/a" if row["malformed"] is None else f"{100 * row['malformed']:.1f} %"
    own = "".join(f", {name} {100 * score:.1f} %" for name, score in row.get("scores", {}).items())
    return (
        f"accuracy {100 * row['accuracy']:.1f} ± {100 * row['accuracy_se']:.1f} % of {row['n']} (exact match){own}, "
        f"malformed {malformed}, truncated {100 * row['truncated']:.1f} %"
    )
