"""One model over one benchmark: predictions on disk as they come, resumable, and the metrics of the whole.

Writes ``predictions/<benchmark>.jsonl`` (a line a question), ``predictions/<benchmark>.meta.json`` (what was asked, and
what it has cost so far) and ``metrics/<benchmark>.json``. What it leaves out: several models or seeds (``compare``),
how a benchmark is made (``benchmarks``), the decode loop (``generation``).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from balanced_thinking.core.answers import answers_match, check_reference, parse_response
from balanced_thinking.core.segments import THINK_ANSWER, SegmentSpec
from balanced_thinking.data.example import Example
from balanced_thinking.data.images import image_size
from balanced_thinking.data.prompts import build_prompt
from balanced_thinking.errors import EvaluationError
from balanced_thinking.evaluation.engine import Engine
from balanced_thinking.evaluation.generation import Prompt, Response
from balanced_thinking.evaluation.identity import Model, asked_identity
from balanced_thinking.evaluation.ledger import Ledger, written
from balanced_thinking.evaluation.metrics import mean_scores, summarise
from balanced_thinking.evaluation.question import Question, Rule
from balanced_thinking.evaluation.trained import prompting, trained_segments
from balanced_thinking.runinfo import write_json

_GREY = (128, 128, 128)


@dataclass(frozen=True, slots=True)
class Target:
    """What is evaluated on: a name for files, the default cap, the questions in order, the benchmark's own scores, and
    what must be said of the questions."""

    name: str
    max_new_tokens: int
    questions: list[Question]
    rules: Mapping[str, Rule]
    remark: str | None = None


@dataclass(frozen=True, slots=True)
class _Asking:
    """How questions become prompts, and the cap on their responses."""

    max_new_tokens: int
    blank_images: bool
    system_prompt: str | None
    template: dict[str, Any]

    @property
    def identity(self) -> dict[str, Any]:
        return {
            "max_new_tokens": self.max_new_tokens,
            "blank_images": self.blank_images,
            "system_prompt": self.system_prompt,
            "chat_template_kwargs": self.template or None,
        }

    def prompts(self, questions: Sequence[tuple[int, Question]]) -> list[Prompt]:
        return [_prompt(asked.example, self.blank_images, self.system_prompt) for _, asked in questions]


def evaluate(
    model: Model | Engine,
    benchmark: str | PathLike,
    *,
    output_dir: str | PathLike,
    limit: int | None = None,
    max_new_tokens: int | None = None,
    batch_size: int | None = None,
    backend: str = "transformers",
    blank_images: bool = False,
    system_prompt: str | None = None,
    seed: int = 0,
    progress: bool = True,
    expects_think: bool | None = None,
    reading: Mapping[str, Any] | None = None,
    segments: Sequence[SegmentSpec] | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    dtype: str = "auto",
    backend_options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Answers every question greedily, scores the answers, and returns the metrics of the whole.

    Stopped, it goes on where it was; finished, it loads no model. Other settings for the same files are refused.

    Args:
        model: A model folder, a hub id, a loaded (model, processor), or an ``Engine`` that several benchmarks share,
            which has its own backend, dtype and backend_options.
        benchmark: ``icons``; ``icons:val``; ``chartqa=/data/ChartQA``; or any readable data file or folder.
        output_dir: Folder for ``predictions/`` and ``metrics/``, usually the run folder.
        limit: Only the first so many questions.
        max_new_tokens: Cap on a response; None takes the benchmark's (1,024 for a data file).
        batch_size: Questions at once; None chooses by the model's size. Halved when memory runs out.
        backend: ``transformers`` or ``vllm`` (needs vLLM; not run by us).
        blank_images: Replace every picture by a grey one of the same size, to see what pictures contribute.
        system_prompt: A system turn before every question; None: what the model's run folder says, "" for none.
        seed: Written into the row; greedy answers do not depend on it.
        progress: Show a bar with the running accuracy.
        expects_think: False for arms whose format has no think, whose malformed and think_tokens are then None.
        reading: For a data file, options of ``load_examples`` (``columns``, ``image_root``, ..).
        segments: What the model was trained to write; None: what its run folder says, else think and answer.
        chat_template_kwargs: Options of the chat template; None: what the run folder says, {} for none.
        dtype: Of the weights: ``auto`` (as saved; float32 on the CPU), ``float32``, ``bfloat16``, ``float16``.
        backend_options: Arguments of ``vllm.LLM``, such as ``{"tensor_parallel_size": 2}``.

    Returns:
        model, benchmark, seed, the fields of ``metrics.summarise``, sources (the same by source), stages.

    Raises:
        EvaluationError: unknown benchmark or backend, no questions, files of another evaluation, too little memory.
        DataError, CheckpointError: data file or model folder cannot be read.
    """
    _check(limit=limit, max_new_tokens=max_new_tokens, batch_size=batch_size)
    engine = model if isinstance(model, Engine) else Engine(model, backend, dtype=dtype, options=backend_options)
    segments = tuple(segments or trained_segments(engine.model))
    target = find_benchmark(benchmark, limit=limit, reading={"segments": segments, **(reading or {})})
    cap = max_new_tokens or target.max_new_tokens
    with _shown(target, progress) as (advance, say):
        asking = _Asking(cap, blank_images, *prompting(engine.model, system_prompt, chat_template_kwargs, say=say))
        identity = engine.identity | asked_identity(target.questions, segments) | asking.identity
        ledger = _ledger(Path(output_dir), target, {"limit": limit} | identity, segments=segments, say=say)
        advance([ledger.rows[i] for i in sorted(ledger.rows)])
        if left := [(i, asked) for i, asked in enumerate(target.questions) if i not in ledger.rows]:
            shared: dict[str, Any] = {"segments": segments, "template": asking.template}
            generator = engine.generator(cap, batch_size=batch_size, say=say, **shared)
            _answer(generator, left, asking.prompts(left), target.rules, ledger, advance)
    row = {"model": engine.label, "benchmark": target.name, "seed": seed} | _measured(ledger, target, expects_think)
    with written(file := Path(output_dir) / "metrics" / f"{target.name}.json"):
        write_json(file, row)
    return row


def find_benchmark(
    benchmark: str | PathLike, *, limit: int | None = None, reading: Mapping[str, Any] | None = None
) -> Target:
    """The questions of a benchmark or of a data file, their references checked.

    A benchmark's name means its test split; ``icons:val`` another one, whose files are called ``icons-val``.

    Raises:
        EvaluationError: neither a known name nor an existing path; no questions; a reference that no answer can match.
        DataError: the data file cannot be read.
    """
    from balanced_thinking.evaluation.benchmarks import ask

    asked = ask(benchmark, reading)
    questions = list(islice(asked.load(), limit))
    if not questions:
        raise EvaluationError(f"{fspath(benchmark)} holds no questions; check the file")
    for question in questions:
        example = question.example
        try:
            for answer in (example.answer, *question.also):
                check_reference(answer, kind=example.kind, choices=example.choices)
        except EvaluationError as error:
            raise EvaluationError(f"{asked.name}, question {example.id}: {error}") from error
    remark = None
    if asked.size not in (None, len(questions)) and len(questions) != limit:
        remark = f"{asked.name}: {len(questions):,} questions are here, {asked.size:,} were published"
    return Target(asked.name, asked.max_new_tokens, questions, asked.rules, remark)


def score(
    index: int,
    question: Question,
    *,
    response: Response,
    rules: Mapping[str, Rule],
    segments: Sequence[SegmentSpec] = THINK_ANSWER,
) -> dict[str, Any]:
    """One line of ``predictions/<benchmark>.jsonl``: question, reference, response, and what was made of it."""
    parsed, example = parse_response(response.text, response.prefix, segments), question.example
    own: dict[str, Any] = {}
    if rules:
        own["scores"] = {name: rule(parsed.answer, question) for name, rule in rules.items()}
    if example.context:
        own["context"] = [[turn.role, turn.text] for turn in example.context]
    return own | {
        "index": index,
        "id": example.id,
        "source": example.source,
        "kind": example.kind,
        "question": example.question,
        "choices": None if example.choices is None else list(example.choices),
        "reference": example.answer,
        "images": [_reference(image) for image in example.images],
        "response": response.prefix + response.text,
        "think": parsed.think,
        "answer": parsed.answer,
        "malformed": parsed.malformed,
        "truncated": response.truncated,
        "correct": any(
            answers_match(parsed.answer, right, kind=example.kind, choices=example.choices)
            for right in (example.answer, *question.also)
        ),
        "think_tokens": response.think_tokens,
        "answer_tokens": response.answer_tokens,
    }


def _check(**counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None and count < 1:
            raise EvaluationError(f"{name} must be at least 1, got {count}")


def _ledger(
    output_dir: Path,
    target: Target,
    config: dict[str, Any],
    *,
    segments: Sequence[SegmentSpec],
    say: Callable[[str], None],
) -> Ledger:
    """What is there already, scored by the rules of today; what must be said of the questions is said here, once."""
    if target.remark:
        say(target.remark)
    count, scores = len(target.questions), tuple(target.rules)
    config = config | {"benchmark": target.name}
    ledger = Ledger(output_dir, target.name, config=config, say=say, count=count, scores=scores)
    _score_anew(ledger, target, segments, say)
    return ledger


def _score_anew(ledger: Ledger, target: Target, segments: Sequence[SegmentSpec], say: Callable[[str], None]) -> None:
    """Stored answers by the rules of today, so that no figure mixes those of two versions."""
    changed = 0
    for index, row in ledger.rows.items():
        told = Response(row["response"], [], row["truncated"], row["think_tokens"], row["answer_tokens"])
        now = score(index, target.questions[index], response=told, rules=target.rules, segments=segments)
        changed += any(now.get(name) != row.get(name) for name in ("correct", "scores", "malformed"))
        ledger.rows[index] = now
    if changed:
        say(f"{ledger.path}: {changed:,} stored answers are scored otherwise by this version, and count as it says")


def _answer(
    generator: Any,
    questions: list[tuple[int, Question]],
    prompts: list[Prompt],
    rules: Mapping[str, Rule],
    ledger: Ledger,
    advance: Callable[[list[dict[str, Any]]], None],
) -> None:
    """Asks all prompts; rows reach the disk as each batch ends, with what it has cost."""
    before = _clock() | asdict(generator.stats)
    for batch in generator.batches(prompts):
        shared: dict[str, Any] = {"rules": rules, "segments": generator.segments}
        rows = [score(*questions[at], response=response, **shared) for at, response in batch]
        now = _clock() | asdict(generator.stats)
        ledger.add(rows, {key: now[key] - before[key] for key in ledger.spent})
        advance(rows)
        before = now


def _prompt(example: Example, blank_images: bool, system_prompt: str | None) -> Prompt:
    images = example.images
    if blank_images:
        images = tuple(_blank(image, example.id) for image in images)
    return Prompt(example.id, build_prompt(example, system_prompt=system_prompt), images)


def _blank(image: Any, record: str) -> Any:
    from PIL import Image

    return Image.new("RGB", image_size(image, record=record), _GREY)


@contextmanager
def _shown(target: Target, progress: bool) -> Iterator[tuple[Callable[[list[dict[str, Any]]], None], Callable]]:
    """A bar with the running accuracy: (take finished rows, print a line above the bar). Both go to standard error."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    done = {"rows": 0, "correct": 0}
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not progress) as bar:
        task = bar.add_task(target.name, total=len(target.questions))

        def advance(rows: list[dict[str, Any]]) -> None:
            done["rows"] += len(rows)
            done["correct"] += sum(row["correct"] for row in rows)
            share = f" {100.0 * done['correct'] / done['rows']:.1f} % right" if done["rows"] else ""
            bar.update(task, advance=len(rows), description=target.name + share)

        yield advance, lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True)


def _measured(ledger: Ledger, target: Target, expects_think: bool | None) -> dict[str, Any]:
    rows = ledger.finish(len(target.questions))
    rates = summarise(rows, expects_think=expects_think is not False)
    return rates | {"sources": _by_source(rows), "stages": [ledger.stage()]}


def _by_source(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    sources: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        sources.setdefault(row["source"], []).append(row)
    return {
        name: {"n": len(own), "accuracy": sum(row["correct"] for row in own) / len(own)} | mean_scores(own)
        for name, own in sorted(sources.items())
    }


def _reference(image: Any) -> str | None:
    """The path of a picture; None for one that has none (encoded bytes, PIL images)."""
    if isinstance(image, dict):
        image = image.get("path")
    return fspath(image) if isinstance(image, str | PathLike) else None


def _clock() -> dict[str, float]:
    return {"seconds": time.perf_counter(), "cpu_seconds": time.process_time()}
