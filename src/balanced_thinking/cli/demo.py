"""``balanced demo``: SFT and SCALe-SFT on the embedded model and benchmark, from training to report."""

from collections.abc import Sequence


def run(argv: Sequence[str]) -> int:
    """Run the comparison in ``demo/recipe.yaml``; stopped and started again it goes on."""
    from balanced_thinking.cli.compare import add_options, compare
    from balanced_thinking.cli.parsing import OneLineParser

    parser = OneLineParser(prog="balanced demo", description=__doc__)
    add_options(parser, output_dir="runs/demo")
    options = parser.parse_all(argv)

    from importlib.resources import files
    from pathlib import Path

    import yaml

    recipe = files("balanced_thinking.demo").joinpath("recipe.yaml")
    values = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    return compare(values, options, source="demo/recipe.yaml", output=Path(options.output_dir))
