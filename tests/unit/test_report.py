"""Reports from made-up results: claims with hand-worked differences, hostile text, the two renderings."""

import json
import shutil

import pytest

from balanced_thinking.compare import plots
from balanced_thinking.compare.comparison import read_comparison
from balanced_thinking.compare.plan import Stage
from balanced_thinking.compare.render import Answer, Code, Example, Heading, Table, Text, html, markdown
from balanced_thinking.compare.report import write_report
from balanced_thinking.compare.statistics import cells, claims, clock_of, paired_over_seeds, seconds_compare, time_ratio
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
    assert (second.verdict, second.figures[:11]) == ("not resolved", "+0.5 points")
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
    """Beside other work CPU seconds take their place, on CPUs with the same threads; else nothing does."""
    beside = row("scale", 120, seconds=(12,), alone=False)
    beside["stages"][0]["cpu_seconds"] = 6
    assert seconds_compare(ROWS)
    assert not seconds_compare([*ROWS, beside])
    assert "CPU time(scale) = 60 CPU s / 6 CPU s = 10.00" in time_ratio([ROWS[3], beside])
    beside["stages"][0]["device"] = "cuda"
    assert time_ratio([ROWS[3], beside]) is None
    assert not seconds_compare([ROWS[0]])
    other = row("scale", 120, seconds=(12,))
    other["stages"][0]["threads"] = 2
    assert not seconds_compare([ROWS[3], other])
    assert clock_of([ROWS[3], other]) is None


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


def test_examples_outlive_the_predictions_they_came_from(tmp_path):
    """A committed folder has no predictions: its report can be made again without losing its examples."""
    values = {
        "name": "n",
        "models": ["m"],
        "arms": ["sft", "scale"],
        "benchmarks": ["icons"],
        "recipe": {"dataset": "d"},
    }
    comparison = read_comparison(values, source="x")
    picture, other = tmp_path / "p.png", tmp_path / "examples" / "mine.py"
    picture.write_bytes(b"pixels")
    for arm, right in (("sft", False), ("scale", True)):
        folder = tmp_path / "m" / arm / "seed-0" / "predictions"
        folder.mkdir(parents=True)
        line = {
            "id": "q1",
            "question": "How many?",
            "images": [str(picture)],
            "reference": "3",
            "response": f"by {arm}",
        }
        (folder / "icons.jsonl").write_text(json.dumps({**line, "correct": right}) + "\n")
    rows = [row("sft", 100, benchmark="icons"), row("scale", 120, benchmark="icons")]
    write_report(comparison, rows, tmp_path)
    before = (tmp_path / "report.md").read_text()
    assert "by sft" in before
    assert "The question alone, without the picture, gives 20.0 %." in before
    other.write_text("not ours")
    (tmp_path / "examples" / "9-0.png").write_bytes(b"of an earlier report")
    shutil.rmtree(tmp_path / "m")
    picture.unlink()
    page = write_report(comparison, rows, tmp_path).read_text()
    assert (tmp_path / "report.md").read_text() == before
    assert "by scale" in page
    assert "data:image/png;base64," in page
    assert other.exists()


def test_an_arm_that_is_added_later_takes_no_examples_away(tmp_path):
    """Where the predictions of the first arm are gone, the new one had the examples to itself."""
    values = {
        "name": "n",
        "models": ["m"],
        "arms": ["sft", "scale"],
        "benchmarks": ["icons"],
        "recipe": {"dataset": "d"},
    }
    comparison = read_comparison(values, source="x")
    for arm in ("sft", "scale"):
        folder = tmp_path / "m" / arm / "seed-0" / "predictions"
        folder.mkdir(parents=True)
        line = {"id": "q1", "question": "How many?", "images": [], "reference": "3", "correct": arm == "sft"}
        (folder / "icons.jsonl").write_text(json.dumps({**line, "response": f"by {arm}"}) + "\n")
        write_report(comparison, [row("sft", 100, benchmark="icons")], tmp_path)
        shutil.rmtree(tmp_path / "m")
    assert "by sft" in (tmp_path / "report.md").read_text()


def test_an_arm_without_predictions_leaves_the_others_their_examples(tmp_path):
    values = {"name": "n", "models": ["m"], "arms": ["sft", "scale"], "benchmarks": ["b"], "recipe": {"dataset": "d"}}
    comparison = read_comparison({**values, "benchmarks": ["icons"]}, source="x")
    folder = tmp_path / "m" / "sft" / "seed-0" / "predictions"
    folder.mkdir(parents=True)
    line = {"id": "q1", "question": "How many?", "images": [], "reference": "3", "response": "by sft", "correct": True}
    (folder / "icons.jsonl").write_text(json.dumps(line) + "\n")
    write_report(comparison, [row("sft", 100, benchmark="icons")], tmp_path)
    assert "by sft" in (tmp_path / "report.md").read_text()


def test_the_report_tells_the_versions_of_the_runs(tmp_path):
    values = {"name": "n", "models": ["m"], "arms": ["sft"], "benchmarks": ["icons"], "recipe": {"dataset": "d"}}
    made = [{"commit": "abc", "packages": {"torch": "0.1"}}, {"commit": "def", "packages": {"torch": "0.2"}}]
    (tmp_path / "comparison.json").write_text(json.dumps({"made_by": made}))
    write_report(read_comparison(values, source="x"), [row("sft", 100, benchmark="icons")], tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert '"commit": "abc"' in text
    assert '"torch": "0.2"' in text


def test_the_error_covers_questions_and_seeds():
    """Means 0.5 and 0.6: s2 = 0.005; 100 questions always right, 20 half the time, 80 never: q2 = 0.2285 (by hand)."""
    (arms,) = cells([row("sft", 100), row("sft", 120, seed=1)]).values()
    q2 = (100 * (1 - 0.55) ** 2 + 20 * (0.5 - 0.55) ** 2 + 80 * 0.55**2) / 199
    assert arms["sft"].standard_error == pytest.approx((0.005 / 2 + q2 / 200) ** 0.5)
    (same,) = cells([row("sft", 100), row("sft", 100, seed=1)]).values()
    assert same["sft"].standard_error == pytest.approx(0.0354, abs=2e-4)


def test_an_untrained_arm_is_set_against_every_seed_in_both_directions():
    base, others = (
        [row("base", 150)],
        [row("scale+grpo", right, seed=s, seconds=(1, 1)) for s, right in enumerate((130, 140))],
    )
    there, back = paired_over_seeds(base, others), paired_over_seeds(others, base)
    assert (there.seed_count, back.seed_count) == (2, 2)
    assert there.difference == pytest.approx(0.075) == -back.difference


def test_one_seed_is_never_resolved():
    (arms,) = cells([row("sft", 100), row("scale", 120)]).values()
    assert not arms["scale"].difference.resolved
    assert arms["scale"].verdict.endswith("] on one seed")
    (level,) = cells([row("sft", 100), row("scale", 101)]).values()
    assert level["scale"].verdict.endswith("not resolved")


def test_the_best_of_the_others_is_the_one_with_the_smallest_margin_on_shared_seeds():
    """scale has a third, better seed, which scale+grpo does not share; against base it is behind on its own seeds."""
    rows = [row("scale+grpo", 120, seed=s, seconds=(1, 1)) for s in (0, 1)]
    rows += [row("scale", right, seed=s, seconds=(1,)) for s, right in enumerate((110, 110, 190))]
    rows += [row("base", 125)]
    assert claims(rows)[-1].figures.endswith("to base, the best of the others")


def test_cells_say_where_they_have_fewer_seeds(tmp_path):
    values = {
        "name": "n",
        "models": ["m"],
        "arms": ["sft", "scale:full"],
        "benchmarks": ["b"],
        "recipe": {"dataset": "d"},
    }
    rows = [row("sft", 100), row("sft", 100, seed=1), row("scale:full", 110, seconds=(1,))]
    write_report(read_comparison({**values, "benchmarks": ["icons"]}, source="x"), rows, tmp_path)
    assert "55.0 ± 3.5 (1 of 2 seeds)" in (tmp_path / "report.md").read_text()


def test_own_scores_and_dollar_signs(tmp_path):
    values = {"name": "n", "models": ["a$^$c"], "arms": ["sft"], "benchmarks": ["icons"], "recipe": {"dataset": "d"}}
    rows = [
        {**row("sft", 100, model="a$^$c", benchmark="x$y"), "scores": {"anls": 0.61}},
        row("sft", 90, model="a$^$c", seed=1),
    ]
    page = write_report(read_comparison(values, source="x"), rows, tmp_path).read_text()
    assert "anls" in page
    assert "a$^$c" in page


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
