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

transformers' own {architecture} in {millions:.2f} million parameters, with its real processor and a byte-level BPE
tokenizer of {vocabulary} tokens. Pre-trained from random weights on facts, dense captions and direct questions
about 3 x 3 grids of icons; it has never seen a reasoning trace, nor any icon of `icons-unseen`. It is a base for the
project's comparisons and knows nothing else: no language beyond those templates, no pictures beyond those grids.

```python
from balanced_thinking.demo.presets import resolve
from transformers import AutoModelForImageTextToText, AutoProcessor

folder = resolve("{name}")
model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
```

| direct answers, greedy, exact match | questions | accuracy |
|---|---|---|
{figures}

Made by `balanced presets build {name}`: {steps} steps of {rows} rows, seed {seed}, Muon, learning rate {learning_rate}
(decaying over the last 40 %); {seconds:.0f} s of CPU time. Stored in bfloat16.

{attribution}
"""


def measure(folder: Path, scratch: Path) -> dict[str, dict[str, float]]:
    """Accuracy of direct answers on the val splits: benchmark -> row of ``evaluate``."""
    from balanced_thinking.evaluation.evaluate import evaluate

    rows = {}
    for name in ("icons", "icons-unseen"):
        file = split_file(name, "val")
        rows[name] = evaluate(folder, file, output_dir=scratch / name, max_new_tokens=12, expects_think=False)
    return rows


def write_card(
    folder: Path, name: str, architecture: str, figures: dict[str, dict[str, float]], **facts: float
) -> None:
    """``README.md`` from the figures of ``measure`` and the facts of the run."""
    lines = [f"| `{bench}` val | {row['n']:,} | {100 * row['accuracy']:.1f} % |" for bench, row in figures.items()]
    write_text(
        folder / "README.md",
        _CARD.format(name=name, architecture=architecture, figures="\n".join(lines), attribution=ATTRIBUTION, **facts),
    )
