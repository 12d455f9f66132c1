"""Reports from made-up results: claims with hand-worked differences, hostile text, the two renderings."""

import pytest

from balanced_thinking.compare import plots
from balanced_thinking.compare.comparison import read_comparison
from balanced_thinking.compare.plan import Stage
from balanced_thinking.compare.render import Answer, Code, Example, Heading, Table, Text, html, markdown
from balanced_thinking.compare.report import write_report
from balanced_thinking.compare.statistics import cells, claims, seconds_compare, time_ratio
from balanced_thinking.evaluation.metrics import encode_bits

N = 200
HOSTILE = '<script>alert(1)</script> & "quoted" | `code` \ud800 ![x](y)'


def row(arm, right, *, seed=0, seconds=(), kinds=None, model="m", benchmark="b", alone=True):
    """One result: the first ``right`` of N questions are answered rightly."""
    bits = [i < right for i in range(N)]
    stages = [
        {"name": name, "seconds": s, "cpu_seconds": s, "steps": 10 * s, "tokens": 7, "alone": alone, "threads": 1}
        for name, s in zip(("sft", "grpo"), seconds, strict=False)
    ]
    share = right / N
    return {
        "model": model, "arm": arm, "seed": seed, "benchmark": benchmark, "n": N, "accuracy": share,
        "accuracy_se": (share * (1 - share) / N) ** 0.5, "malformed": sum((kinds or {}).values()),
        "malformed_kinds": kinds or {}, "truncated": 0.0, "correct": encode_bits(bits), "think_tokens": 90.0,
        "answer_tokens": 1.0, "stages": stages,
    }  # fmt: skip


ROWS = [
    row("base", 150),
    row("sft", 100, seconds=(10,), kinds={"no-answer": 0.05}),
    row("scale", 120, seconds=(12,), kinds={"no-answer": 0.01, "order": 0.01}),
    row("sft+grpo", 119, seconds=(10, 50)),
    row("scale+grpo", 140, seconds=(12, 50)),
]


def test_the_claims_with_their_figures():
    """scale - sft = 20/200 = 10 points; scale - sft+grpo = 1/200 = 0.5; scale+grpo - base (the best) = -10/200 = -5."""
    first, second, third, fourth = claims(ROWS)
    assert (first.verdict, first.figures[:12]) == ("holds on one seed", "+10.0 points")
    assert (second.verdict, second.figures[:11]) == ("not told apart", "+0.5 points")
    assert (third.verdict, third.figures) == ("does not hold", "1 / 5.0")
    assert fourth.verdict == "does not hold on one seed"
    assert fourth.figures.startswith("-5.0 points")
    assert fourth.figures.endswith("to base, the best of the others")


def test_claims_need_their_arms():
    assert claims([ROWS[0], ROWS[1]]) == []
    assert [claim.verdict for claim in claims(ROWS[1:3])] == ["holds on one seed"]
    level = claims([row("scale", 120), row("sft+grpo", 150)])
    assert [claim.verdict for claim in level] == ["does not hold on one seed"]


def test_with_several_seeds_both_intervals_count():
    """The same ten points on three seeds: no spread over seeds, so it holds without reserve."""
    rows = [row(arm, right, seed=seed) for seed in range(3) for arm, right in (("sft", 100), ("scale", 120))]
    assert [claim.verdict for claim in claims(rows)] == ["holds"]
    torn = [row("sft", 100, seed=s) for s in range(3)] + [row("scale", 100 + 40 * s, seed=s) for s in range(3)]
    assert [claim.verdict for claim in claims(torn)] == ["not resolved"]


def test_the_ratio_of_times_names_accuracies_and_steps():
    sentence = time_ratio(ROWS)
    assert "60 s / 12 s = 5.00" in sentence
    assert "at 59.5 % and 60.0 %" in sentence
    assert "500 GRPO steps after 100 SFT steps" in sentence
    assert time_ratio(ROWS[:3]) is None
    assert time_ratio([row("sft+grpo", 1), row("scale", 1)]) is None


def test_seconds_are_compared_only_where_they_were_measured_alike():
    beside = row("scale", 120, seconds=(12,), alone=False)
    assert seconds_compare(ROWS)
    assert not seconds_compare([*ROWS, beside])
    assert time_ratio([ROWS[3], beside]) is None
    assert not seconds_compare([ROWS[0]])
    other = row("scale", 120, seconds=(12,))
    other["stages"][0]["threads"] = 2
    assert not seconds_compare([ROWS[3], other])


def test_the_ratio_is_over_the_seeds_that_both_arms_have():
    rows = [*ROWS, row("scale", 200, seed=1, seconds=(1000,))]
    assert "60 s / 12 s = 5.00, at 59.5 % and 60.0 %" in time_ratio(rows)


def test_kinds_are_means_over_seeds():
    (arms,) = cells([row("sft", 100, kinds={"order": 0.1}), row("sft", 100, seed=1)]).values()
    assert arms["sft"].kinds == {"order": 0.05}
    assert arms["sft"].malformed == pytest.approx(0.05)


def test_the_whole_report_without_run_folders(tmp_path):
    values = {
        "name": f"a {HOSTILE} name", "models": ["m"], "arms": [r["arm"] for r in ROWS], "benchmarks": ["icons"],
        "recipe": {"dataset": "icons"}, "grpo": {"dataset": "icons"},
    }  # fmt: skip
    page = write_report(read_comparison(values, source="x"), ROWS, tmp_path).read_text(encoding="utf-8")
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    for words in ("+10.0 points", "no-answer", "cpu seconds", "how to cite", "60.0 ± 3.5"):
        assert words in page.lower()
        assert words in text.lower()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_text_from_data_is_escaped_everywhere(tmp_path):
    blocks = [
        Heading(HOSTILE, 2), Text(HOSTILE), Table((HOSTILE, "b"), [(HOSTILE, "a\nb")]), Code(HOSTILE),
        Example(HOSTILE, [], HOSTILE, [Answer(HOSTILE, False, HOSTILE + "\n# head")]),
    ]  # fmt: skip
    page = html(HOSTILE, blocks)
    page.encode("utf-8")
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 10
    text = markdown(blocks, tmp_path)
    text.encode("utf-8")
    outside = text.replace(markdown([blocks[3]], tmp_path).strip(), "")
    assert "<script" not in outside.replace("\\<", "")
    assert "\n# head" not in outside


def test_only_our_own_pictures_are_removed_from_examples(tmp_path):
    (tmp_path / "examples").mkdir()
    for name in ("1-0.png", "mine.py", "2.png"):
        (tmp_path / "examples" / name).write_text("x")
    markdown([], tmp_path)
    assert sorted(path.name for path in (tmp_path / "examples").iterdir()) == ["2.png", "mine.py"]


def test_curves_of_any_number_of_segments(tmp_path):
    """More segments than line styles, in segment order, without the mean over all tokens."""
    names = [f"s{number}" for number in range(8)]
    logged = {f"scale/{sort}_{name}": 0.1 for name in names for sort in ("weight", "nll")}
    rows = [{"step": step, "loss": 1.0, "scale/nll_token": 1.0, **logged} for step in (1, 2)]
    stage = Stage("sft", "m", "scale", 0, tmp_path)
    assert [title for _, title, _ in plots._nll_panels([(stage, rows)])] == names
    figure = plots._plot_weights([(stage, rows)], {"scale": "C0"})
    shown = [line.get_label() for line in figure.axes[0].get_lines()]
    assert shown == [f"scale: {name}" for name in reversed(names)]
