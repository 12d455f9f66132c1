"""``balanced report``: make the report of a comparison again from its folder."""

from collections.abc import Sequence


def run(argv: Sequence[str]) -> int:
    """Write ``report.html``, ``report.md`` and the plots anew, and print the tables."""
    import json
    from pathlib import Path

    from balanced_thinking.cli.parsing import OneLineParser
    from balanced_thinking.compare.comparison import read_comparison
    from balanced_thinking.compare.report import print_table, write_report
    from balanced_thinking.errors import ConfigError
    from balanced_thinking.runinfo import read_jsonl

    parser = OneLineParser(prog="balanced report", description=__doc__)
    parser.add_argument("folder", help="folder of a comparison: comparison.json and results.jsonl")
    folder = Path(parser.parse_all(argv).folder)
    try:
        values = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))["config"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{folder} holds no comparison: comparison.json is missing or not readable") from error
    comparison = read_comparison(values, source=str(folder / "comparison.json"))
    rows = read_jsonl(folder / "results.jsonl")
    if not rows:
        raise ConfigError(f"{folder} holds no results yet: results.jsonl is missing or empty")
    print_table(rows)
    print(f"Report: {write_report(comparison, rows, folder)}")
    return 0
