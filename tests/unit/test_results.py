"""What is committed under results/ agrees with itself: each report was made from the rows beside it."""

import json
import re
from pathlib import Path

import pytest

from balanced_thinking.compare.comparison import ARMS, read_comparison
from balanced_thinking.compare.statistics import _standard_error
from balanced_thinking.runinfo import read_jsonl

RESULTS = Path(__file__).parents[2] / "results"
FOLDERS = sorted(path.parent for path in RESULTS.glob("*/results.jsonl"))


def test_there_are_results():
    assert len(FOLDERS) >= 5


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_report_says_what_its_rows_say(folder):
    """Every cell of the detailed tables, and no benchmark or arm left out."""
    sections = (folder / "report.md").read_text(encoding="utf-8").split("\n## ")
    grouped: dict[tuple[str, str, str], list[dict]] = {}
    for row in read_jsonl(folder / "results.jsonl"):
        grouped.setdefault((row["benchmark"], Path(row["model"]).name, row["arm"]), []).append(row)
    for (benchmark, model, arm), rows in grouped.items():
        title = f"{benchmark}, {model}".replace("_", r"\_")
        section = next(part for part in sections if part.split("\n")[0] == title)
        mean = 100 * sum(row["accuracy"] for row in rows) / len(rows)
        seeds = str(len(rows)) if ARMS[arm].recipe is not None else ""
        assert f"| {arm} | {seeds} | {mean:.1f} ± {100 * _standard_error(rows):.1f} |" in section


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_folder_can_be_gone_on_with(folder):
    """comparison.json is there, is readable, and names all arms and seeds of the rows."""
    told = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    comparison = read_comparison(told["config"], source=str(folder))
    rows = read_jsonl(folder / "results.jsonl")
    assert {row["arm"] for row in rows} <= set(comparison.arms)
    assert {row["seed"] for row in rows} <= {0, *comparison.seeds}
    assert {row["model"] for row in rows} <= set(comparison.models)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_links_of_a_report_lead_somewhere(folder):
    for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (folder / "report.md").read_text(encoding="utf-8")):
        assert (folder / target).is_file(), target
