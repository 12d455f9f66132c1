"""Tasks for lmms-eval that ask our questions and score with our parser: what its stock tasks cannot do.

Those cut a response after 16 or 32 tokens and do not take the answer out of ``<answer>``. A folder is written that
needs nothing of this package: a YAML a benchmark, the questions with their pictures, ``utils.py``, and the source files
of parser and rules as they stand here. ``lmms-eval --include_path FOLDER --tasks balanced_scienceqa-img`` runs it.
What it leaves out: running lmms-eval; other models and prompts than its own.
"""

import json
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from balanced_thinking.core.segments import as_setting, parse_segments
from balanced_thinking.data.images import open_image
from balanced_thinking.data.prompts import render_question
from balanced_thinking.errors import ConfigError
from balanced_thinking.evaluation import rules
from balanced_thinking.evaluation.benchmarks import ask, check_reading
from balanced_thinking.evaluation.evaluate import Target, find_benchmark
from balanced_thinking.evaluation.question import Question
from balanced_thinking.runinfo import check_writable, write_text

PACKAGE = Path(__file__).parents[1]
# Parser, matching rules and own scores; pure standard library.
SCORING = (
    "__init__.py",
    "errors.py",
    "core/__init__.py",
    "core/answers.py",
    "core/segments.py",
    "data/__init__.py",
    "data/example.py",
    "data/prompts.py",
    "evaluation/__init__.py",
    "evaluation/question.py",
    "evaluation/rules.py",
)
_YAML = """# Written by `balanced export lmms-eval`; utils.py says how it is scored.
task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.visual
doc_to_text: !function utils.text
doc_to_messages: !function utils.messages
doc_to_target: answer
process_results: !function utils.score
reasoning_tags: none
generation_kwargs:
  max_new_tokens: {cap}
  temperature: 0
  do_sample: false
  until: []
metric_list:
{metrics}
metadata:
  - version: 1.0
"""
_METRIC = """  - metric: {name}
    aggregation: mean
    higher_is_better: {better}
"""
_UTILS = '''"""Questions and scores of think/answer models, by balanced-thinking {version}.

``exact_match``: the answer taken from the response (in <answer>..</answer>, else by the rules of
scoring/balanced_thinking/core/answers.py) against the reference. ``malformed``: the response is not of the form
segments that SEGMENTS names, <think>..</think><answer>..</answer> unless told otherwise. Any other score is the
benchmark's own.
"""

import json
import sys
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "scoring"))
try:
    from balanced_thinking.data.example import Example
    from balanced_thinking.evaluation import rules
    from balanced_thinking.core.answers import answers_match, parse_response
    from balanced_thinking.core.segments import parse_segments
    from balanced_thinking.evaluation.question import Question
finally:
    sys.path.remove(str(HERE / "scoring"))

PREFIX = {prefix!r}  # what the chat template writes of the response itself
SYSTEM_PROMPT = {system_prompt!r}
SEGMENTS = parse_segments({segments!r})


def visual(doc):
    return [Image.open(HERE / "questions" / name).convert("RGB") for name in json.loads(doc["images"])]


def text(doc, lmms_eval_specific_kwargs=None):
    return doc["text"]


def messages(doc, lmms_eval_specific_kwargs=None):
    parts = [{{"type": "image", "url": image}} for image in visual(doc)] + [{{"type": "text", "text": doc["text"]}}]
    system = [{{"role": "system", "content": [{{"type": "text", "text": SYSTEM_PROMPT}}]}}] if SYSTEM_PROMPT else []
    return [*system, {{"role": "user", "content": parts}}]


def score(doc, results):
    told = json.loads(doc["question"])
    choices = None if told["choices"] is None else tuple(told["choices"])
    example = Example(told["id"], told["source"], (), "", choices, None, told["answer"], told["kind"])
    question = Question(example, tuple(told["also"]), told["facts"])
    parsed = parse_response(results[0], PREFIX, SEGMENTS)
    right = [told["answer"], *told["also"]]
    matches = [answers_match(parsed.answer, each, kind=told["kind"], choices=choices) for each in right]
    own = {{name: getattr(rules, name)(parsed.answer, question) for name in told["rules"]}}
    return {{"exact_match": float(any(matches)), "malformed": float(parsed.malformed is not None), **own}}
'''
_README = """# Tasks for lmms-eval

Written by `balanced export lmms-eval`. Nothing of balanced-thinking has to be installed where lmms-eval runs.
```bash
python -m lmms_eval --include_path {folder} --tasks {tasks} \\
  --model MODEL --model_args pretrained=PATH --batch_size 1 --reasoning_tags none --output_path results
```
`exact_match` and `malformed` are those of `balanced evaluate`. Beware: some model classes of lmms-eval load bfloat16
whatever the checkpoint holds, shrink or enlarge pictures, add their own system prompt, or write the token that begins
a text twice where the chat template writes it too; then the prompts differ, not the scoring.
The path of the questions stands in the YAML: after moving the folder, export again.
"""


def export_lmms_eval(
    benchmarks: Sequence[str | PathLike],
    output_dir: str | PathLike,
    *,
    max_new_tokens: int | None = None,
    limit: int | None = None,
    system_prompt: str | None = None,
    prefix: str = "",
    reading: Mapping[str, Any] | None = None,
) -> list[str]:
    """Write the task folder.

    Args:
        benchmarks: As for ``evaluate``: names, ``NAME=FOLDER``, or data files.
        output_dir: A new or empty folder.
        max_new_tokens: Generation cap; None takes each benchmark's.
        limit: Only the first so many questions of each.
        system_prompt: The one used in training, for lmms-eval's chat models.
        prefix: What the chat template writes of the response itself, such as ``<think>``.
        reading: How data files are read, as in ``evaluate``; its ``segments`` are also what the model was trained to
            write.

    Returns:
        The names of the tasks.

    Raises:
        ConfigError: the folder is not empty or cannot be made, or two benchmarks would have one name.
        EvaluationError, DataError: as ``find_benchmark``.
    """
    from balanced_thinking import __version__

    folder = Path(output_dir).resolve()
    _check(folder, limit=limit, max_new_tokens=max_new_tokens)
    reading = reading or {}
    segments = as_setting(parse_segments(reading.get("segments")))
    check_reading(benchmarks, reading)
    names = [ask(benchmark, reading).name for benchmark in benchmarks]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"two benchmarks are called {min(doubled)}; export them into two folders")
    check_writable(folder)
    targets = [find_benchmark(benchmark, limit=limit, reading=reading) for benchmark in benchmarks]
    for target in targets:
        foreign = [name for name, rule in target.rules.items() if getattr(rules, name, None) is not rule]
        if any(question.example.context for question in target.questions):
            raise ConfigError(f"{target.name} asks within conversations, which the exported tasks cannot show")
        if foreign:
            raise ConfigError(
                f"the score {foreign[0]} of {target.name} cannot be exported; move it to evaluation/rules.py"
            )
    for target in targets:
        _write_task(target, folder, target.max_new_tokens if max_new_tokens is None else max_new_tokens)
    for name in SCORING:
        place = folder / "scoring" / "balanced_thinking" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACKAGE / name, place)
    utils = _UTILS.format(version=__version__, prefix=prefix, system_prompt=system_prompt, segments=segments)
    write_text(folder / "utils.py", utils)
    tasks = [_task(target) for target in targets]
    write_text(folder / "README.md", _README.format(folder=shlex.quote(str(folder)), tasks=",".join(tasks)))
    return tasks


def _check(folder: Path, **counts: int | None) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a new folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; name a new folder")
    if any(mark in str(folder) for mark in ("[", "]", "::")):
        raise ConfigError(f"{folder}: [, ] and :: in a path mean something else to datasets; name another folder")
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ConfigError(f"{name} must be at least 1, not {count}")


def _task(target: Target) -> str:
    return f"balanced_{target.name}"


def _write_task(target: Target, folder: Path, cap: int) -> None:
    from tqdm.auto import tqdm

    if target.remark:
        tqdm.write(target.remark, file=sys.stderr)
    data = folder / "questions" / f"{target.name}.jsonl"
    data.parent.mkdir(parents=True, exist_ok=True)
    with data.open("w", encoding="utf-8") as file:
        for number, question in enumerate(tqdm(target.questions, desc=target.name, leave=False)):
            file.write(json.dumps(_row(number, question, target, data.parent)) + "\n")
    scores = {"exact_match": "true", "malformed": "false", **dict.fromkeys(target.rules, "true")}
    metrics = "".join(_METRIC.format(name=name, better=better) for name, better in scores.items()).rstrip()
    told = _YAML.format(task=_task(target), data=json.dumps(str(data), ensure_ascii=False), cap=cap, metrics=metrics)
    write_text(folder / f"{_task(target)}.yaml", told)


def _row(number: int, question: Question, target: Target, folder: Path) -> dict[str, Any]:
    """A line of the questions; what has no fixed type in a table is written as JSON."""
    example, images = question.example, []
    for place, image in enumerate(example.images):
        name = f"{target.name}/{number}-{place}.png"
        (folder / name).parent.mkdir(exist_ok=True)
        open_image(image, record=example.id).save(folder / name)
        images.append(name)
    told = {
        "id": example.id,
        "answer": example.answer,
        "source": example.source,
        "kind": example.kind,
        "choices": example.choices,
        "also": question.also,
        "facts": dict(question.facts),
        "rules": list(target.rules),
    }
    asked = render_question(example.question, example.choices)
    return {
        "id": example.id,
        "text": asked,
        "images": json.dumps(images),  # a list that is empty in the first 10 MB has no type for ``datasets``
        "answer": example.answer,
        "question": json.dumps(told),
    }
