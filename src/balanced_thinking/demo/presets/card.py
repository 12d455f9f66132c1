"""The model card of an embedded base: what it is, how it was made, what it measures, whose pictures it has seen."""

from pathlib import Path

from balanced_thinking.evaluation.benchmarks.icons import split_file
from balanced_thinking.evaluation.benchmarks.icons_pool import ATTRIBUTION
from balanced_thinking.runinfo import write_text

_CARD = """---
library_name: transformers
pipeline_tag: image-text-to-text
license: apache-2.0
tags: [balanced-thinking]
---
# {name}

transformers' own {architecture} in {millions:.2f} million parameters, with its real processor and a tokenizer of
{vocabulary:,} tokens. {origin} It has never seen a reasoning trace about pictures, nor any icon of `icons-unseen`.
It is a base for the project's comparisons.

```python
from balanced_thinking.demo.presets import resolve
from transformers import AutoModelForImageTextToText, AutoProcessor

folder = resolve("{name}")
model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
```

| direct answers, greedy, exact match | questions | accuracy |
|---|---|---|
{figures}

Made by `balanced presets build {name}`: {align_steps} steps that align the tower to the word embeddings, then
{steps} steps of {rows} rows, seed 0, {optimizer}, learning rate {learning_rate} (decaying over the last 40 %), which
took {seconds:.0f} s of CPU time. Stored in bfloat16.

{attribution}
"""


def measure(folder: Path, scratch: Path, *, limit: int | None = None) -> dict[str, dict[str, float]]:
    """Accuracy of direct answers on the val splits: benchmark -> row of ``evaluate``."""
    from balanced_thinking.evaluation.evaluate import evaluate

    rows = {}
    for name in ("icons", "icons-unseen"):
        file = split_file(name, "val")
        rows[name] = evaluate(
            folder, file, output_dir=scratch / name, limit=limit, max_new_tokens=12, expects_think=False
        )
    return rows


def write_card(
    folder: Path, name: str, architecture: str, figures: dict[str, dict[str, float]], **facts: float | str
) -> None:
    """``README.md`` from the figures of ``measure`` and the facts of the run."""
    lines = [f"| `{bench}` val | {row['n']:,} | {100 * row['accuracy']:.1f} % |" for bench, row in figures.items()]
    write_text(
        folder / "README.md",
        _CARD.format(name=name, architecture=architecture, figures="\n".join(lines), attribution=ATTRIBUTION, **facts),
    )
