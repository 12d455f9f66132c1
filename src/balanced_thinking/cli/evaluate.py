"""``balanced evaluate``: score a model on benchmarks or any readable data file."""

from collections.abc import Sequence
from typing import Any


def run(argv: Sequence[str]) -> int:
    """Evaluate, print one line a benchmark, and leave the predictions beside the model."""
    from balanced_thinking.cli.parsing import OneLineParser

    parser = OneLineParser(prog="balanced evaluate", description=__doc__)
    parser.add_argument("--model", required=True, help="preset, model folder or hub id")
    parser.add_argument("--benchmark", required=True, nargs="+", help="benchmark names or data files")
    parser.add_argument("--output_dir", help="folder for predictions and metrics; unset: the model's run folder")
    parser.add_argument("--limit", type=int, help="first so many questions only")
    parser.add_argument("--max_new_tokens", type=int, help="generation cap; unset: the benchmark's")
    parser.add_argument("--batch_size", type=int, help="questions at once; unset: chosen, lowered when memory is short")
    parser.add_argument("--backend", default="transformers", help="transformers or vllm")
    parser.add_argument("--blank_images", action="store_true", help="replace every picture by a grey one")
    parser.add_argument("--system_prompt", help="the one used in training")
    parser.add_argument(
        "--answers_only", action="store_true", help="the model answers without thinking (malformed: n/a)"
    )
    options = parser.parse_all(argv)

    from pathlib import Path

    from balanced_thinking.demo.presets import resolve
    from balanced_thinking.errors import ConfigError
    from balanced_thinking.evaluation.evaluate import evaluate

    model = str(resolve(options.model))
    output_dir = Path(options.output_dir or model)
    if options.output_dir is None and not Path(options.model).is_dir():
        raise ConfigError("give --output_dir: the model is a preset or hub id, not a run folder of yours")
    from balanced_thinking.models.modeling import check_name

    check_name(model)
    loaded: Any = model
    if options.backend == "transformers" and len(options.benchmark) > 1:
        from balanced_thinking.models.modeling import load_model

        loaded = load_model(model)
    for benchmark in options.benchmark:
        row = evaluate(
            loaded,
            benchmark,
            output_dir=output_dir,
            limit=options.limit,
            max_new_tokens=options.max_new_tokens,
            batch_size=options.batch_size,
            backend=options.backend,
            blank_images=options.blank_images,
            system_prompt=options.system_prompt,
            expects_think=not options.answers_only,
        )
        malformed = "n/a" if row["malformed"] is None else f"{100 * row['malformed']:.1f} %"
        print(
            f"{benchmark}: accuracy {100 * row['accuracy']:.1f} ± {100 * row['accuracy_se']:.1f} % of {row['n']}, "
            f"malformed {malformed}, truncated {100 * row['truncated']:.1f} %"
        )
    return 0
