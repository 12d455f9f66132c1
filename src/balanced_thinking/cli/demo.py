"""``balanced demo``: SFT and SCALe-SFT on the embedded model and benchmark, from training to report."""

from collections.abc import Sequence


def run(argv: Sequence[str]) -> int:
    """Run the comparison in ``demo/recipe.yaml``; stopped and started again it goes on."""
    from balanced_thinking.cli.parsing import OneLineParser

    parser = OneLineParser(prog="balanced demo", description=__doc__)
    parser.add_argument("--output_dir", default="runs/demo", help="folder of the comparison")
    parser.add_argument("--seeds", type=int, nargs="+", help="seeds, one run of every arm each; unset: the recipe's")
    parser.add_argument("--arms", nargs="+", help="arms to compare; unset: the recipe's")
    parser.add_argument("--limit", type=int, help="questions per benchmark; unset: the recipe's")
    parser.add_argument("--max_steps", type=int, help="optimizer steps of each training; unset: the recipe's")
    parser.add_argument("--jobs", type=int, help="stages that run at once; 1 when seconds are to be compared")
    parser.add_argument("--blank_images", action="store_true", help="also evaluate with grey pictures")
    options = parser.parse_all(argv)

    import dataclasses
    import time
    from importlib.resources import files
    from pathlib import Path

    import yaml

    from balanced_thinking.compare.plan import read_comparison
    from balanced_thinking.compare.report import print_table, write_report
    from balanced_thinking.compare.run import run_comparison
    from balanced_thinking.demo.presets import resolve

    recipe = files("balanced_thinking.demo").joinpath("recipe.yaml")
    comparison = read_comparison(yaml.safe_load(recipe.read_text(encoding="utf-8")), source="demo/recipe.yaml")
    changes = {name: getattr(options, name) for name in ("seeds", "arms", "limit", "jobs")}
    changes = {name: value for name, value in changes.items() if value is not None}
    if options.blank_images:
        changes["blank_images"] = True
    if options.max_steps is not None:
        changes["recipe"] = {**comparison.recipe, "max_steps": options.max_steps}
    comparison = dataclasses.replace(comparison, **changes)

    start, output = time.perf_counter(), Path(options.output_dir)
    rows = run_comparison(comparison, output, resolve=resolve)
    report = write_report(comparison, rows, output)
    print_table(rows)
    print(f"Report with plots and examples: {report}   ({(time.perf_counter() - start) / 60:.1f} minutes)")
    complete = {(row["arm"], row["benchmark"]) for row in rows}
    return 0 if all((arm, name) in complete for arm in comparison.arms for name in comparison.benchmarks) else 1
