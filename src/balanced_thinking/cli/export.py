"""``balanced export``: benchmarks as tasks of another evaluation tool, asked and scored as here."""

from collections.abc import Sequence


def run(argv: Sequence[str]) -> int:
    """``lmms-eval``: a task folder for ``lmms-eval --include_path``."""
    from balanced_thinking.cli.parsing import OneLineParser, add_reading, reading_of

    parser = OneLineParser(prog="balanced export", description=__doc__)
    parser.add_argument("tool", choices=("lmms-eval",), help="the tool to write tasks for")
    parser.add_argument("--benchmark", required=True, nargs="+", help="as for balanced evaluate")
    parser.add_argument("--output_dir", required=True, help="a new folder")
    parser.add_argument("--max_new_tokens", type=int, help="generation cap; unset: the benchmark's")
    parser.add_argument("--limit", type=int, help="first so many questions only")
    parser.add_argument("--system_prompt", help="the one used in training")
    parser.add_argument("--prefix", default="", help="what the chat template writes of the response, such as <think>")
    parser.add_argument("--scale_segments", help="what the model writes: llava-cot, or JSON; unset: think and answer")
    add_reading(parser)
    options = parser.parse_all(argv)

    from balanced_thinking.evaluation.export import export_lmms_eval

    tasks = export_lmms_eval(
        options.benchmark,
        options.output_dir,
        max_new_tokens=options.max_new_tokens,
        limit=options.limit,
        system_prompt=options.system_prompt,
        prefix=options.prefix,
        reading={**reading_of(options), "segments": options.scale_segments},
    )
    print(f"{', '.join(tasks)}: see {options.output_dir}/README.md")
    return 0
