"""One model over one benchmark: predictions on disk as they come, resumable, and the metrics of the whole.

Writes ``predictions/<benchmark>.jsonl`` (a line a question), ``predictions/<benchmark>.meta.json`` (what was asked, and
what it has cost so far) and ``metrics/<benchmark>.json``. What it leaves out: several models or seeds (``compare``),
how a benchmark is made (``benchmarks``), the decode loop (``generation``).
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from balanced_thinking.data.example import Example
from balanced_thinking.data.prompts import build_prompt
from balanced_thinking.data.rowcheck import image_size
from balanced_thinking.errors import EvaluationError
from balanced_thinking.evaluation.answers import answers_match, check_reference, parse_response
from balanced_thinking.evaluation.generation import Generator, Prompt, Response
from balanced_thinking.evaluation.metrics import mean_scores, summarise
from balanced_thinking.evaluation.question import Question, Rule
from balanced_thinking.runinfo import content_hash, read_jsonl, write_json, write_text

BACKENDS = ("transformers", "vllm")
_GREY = (128, 128, 128)
_SAMPLE_BYTES = 1 << 20

Model = str | PathLike | tuple[Any, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """What is evaluated on: a name for files, the default cap, the questions in order, the benchmark's own scores."""

    name: str
    max_new_tokens: int
    questions: list[Question]
    rules: Mapping[str, Rule]


def evaluate(
    model: Model,
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
) -> dict[str, Any]:
    """Answers every question greedily, scores the answers, and returns the metrics of the whole.

    Stopped, it goes on where it was; finished, it loads no model. Other settings for the same files are refused.

    Args:
        model: A model folder, a hub id, or a loaded (model, processor).
        benchmark: ``icons``; ``icons:val``; ``chartqa=/data/ChartQA``; or any readable data file or folder.
        output_dir: Folder for ``predictions/`` and ``metrics/``, usually the run folder.
        limit: Only the first so many questions.
        max_new_tokens: Cap on a response; None takes the benchmark's (1,024 for a data file).
        batch_size: Questions at once; None chooses by the model's size. Halved when memory runs out.
        backend: ``transformers`` or ``vllm`` (needs vLLM; not run by us).
        blank_images: Replace every picture by a grey one of the same size, to see what pictures contribute.
        system_prompt: A system turn before every question; None for none.
        seed: Written into the row; greedy answers do not depend on it.
        progress: Show a bar with the running accuracy.
        expects_think: False for arms whose format has no think, whose malformed and think_tokens are then None.
        reading: For a data file, options of ``load_examples`` such as ``columns`` and ``image_root``.

    Returns:
        model, benchmark, seed, the fields of ``metrics.summarise``, sources (the same by source), stages.

    Raises:
        EvaluationError: unknown benchmark or backend, no questions, files of another evaluation, too little memory.
        DataError, CheckpointError: data file or model folder cannot be read.
    """
    _check(backend, limit=limit, max_new_tokens=max_new_tokens, batch_size=batch_size)
    target = find_benchmark(benchmark, limit=limit, reading=reading)
    cap = max_new_tokens if max_new_tokens is not None else target.max_new_tokens
    how = {"limit": limit, "max_new_tokens": cap, "blank_images": blank_images, "system_prompt": system_prompt}
    config = _identity(model, target) | how | {"backend": backend}
    with _shown(target, progress) as (advance, say):
        ledger = Ledger(Path(output_dir), target.name, config, say)
        open_questions = [i for i in range(len(target.questions)) if i not in ledger.rows]
        advance([ledger.rows[i] for i in sorted(ledger.rows)])
        if open_questions:
            questions = [(i, target.questions[i]) for i in open_questions]
            prompts = [_prompt(asked.example, blank_images, system_prompt) for _, asked in questions]
            generator = _generator(model, backend, cap=cap, batch_size=batch_size, say=say)
            _answer(generator, questions, prompts, target.rules, ledger, advance)
    whole = _measured(ledger, len(target.questions), expects_think=expects_think is not False)
    row = {"model": _label(model), "benchmark": target.name, "seed": seed} | whole
    write_json(Path(output_dir) / "metrics" / f"{target.name}.json", row)
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
    return Target(asked.name, asked.max_new_tokens, questions, asked.rules)


def model_identity(model: Model) -> str:
    """What tells one model from another: the weights' fingerprint, or a hub id.

    Of a folder the size and both ends of each weight file are read, of a loaded model a sample of each parameter; so a
    folder that was moved is the same model, and one that was trained on is another.
    """
    digest = hashlib.sha256()
    if isinstance(model, tuple):
        for name, parameter in model[0].named_parameters():
            flat = parameter.detach().reshape(-1)
            sample = flat[:: max(1, len(flat) // 256)].float().cpu().numpy()
            digest.update(f"{name} {tuple(parameter.shape)}".encode() + sample.tobytes())
        return f"weights {digest.hexdigest()[:16]}"
    folder = Path(model)
    files = sorted(path for pattern in ("*.safetensors", "*.bin") for path in folder.glob(pattern))
    if not files:
        return fspath(model)
    for path in files:
        size = path.stat().st_size
        with path.open("rb") as file:
            digest.update(f"{path.name} {size}".encode() + file.read(_SAMPLE_BYTES))
            file.seek(max(0, size - _SAMPLE_BYTES))
            digest.update(file.read())
    return f"weights {digest.hexdigest()[:16]}"


class Ledger:
    """Predictions on disk: finished questions by index, the settings they belong to, and what they have cost.

    Raises:
        EvaluationError: the files belong to an evaluation with other settings, or one of the two is missing.
    """

    def __init__(self, output_dir: Path, name: str, config: dict[str, Any], say: Callable[[str], None]) -> None:
        self.path = output_dir / "predictions" / f"{name}.jsonl"
        self.meta_path = output_dir / "predictions" / f"{name}.meta.json"
        self.config = config
        self.spent: dict[str, float] = {"seconds": 0.0, "cpu_seconds": 0.0, "prompt_tokens": 0, "new_tokens": 0}
        self.rows: dict[int, dict[str, Any]] = {}
        if self.path.exists():
            self._resume(say)
        else:
            self._write_meta(complete=False)

    def add(self, rows: Sequence[dict[str, Any]], cost: dict[str, float]) -> None:
        """Appends finished questions, flushed to the system, and counts their cost."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(_line(row) for row in rows))
        self.rows.update({row["index"]: row for row in rows})
        self.spent = {key: value + cost.get(key, 0) for key, value in self.spent.items()}
        self._write_meta(complete=False)

    def finish(self, count: int) -> list[dict[str, Any]]:
        """All rows in question order; the file is put into that order too."""
        assert sorted(self.rows) == list(range(count)), "a question was left unanswered"
        ordered = [self.rows[i] for i in range(count)]
        write_text(self.path, "".join(map(_line, ordered)))
        self._write_meta(complete=True)
        return ordered

    def stage(self) -> dict[str, Any]:
        """The evaluation as a stage of ``results.jsonl``."""
        times = {key: round(self.spent[key], 3) for key in ("seconds", "cpu_seconds")}
        return {"name": "evaluate", **times, "steps": None, "tokens": int(self.spent["new_tokens"])}

    def _resume(self, say: Callable[[str], None]) -> None:
        try:
            meta = json.loads(self.meta_path.read_text(encoding="utf-8"))
            before, self.spent = meta["config"], meta["spent"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EvaluationError(
                f"{self.meta_path} is missing or cannot be read; delete {self.path.name} beside it to evaluate anew"
            ) from error
        for name, value in self.config.items():
            if before.get(name) != value:
                raise EvaluationError(
                    f"{self.path} was made with another {name} ({_short(before.get(name))}, now {_short(value)}); use "
                    "another output_dir, or delete the file to evaluate anew"
                )
        rows = read_jsonl(self.path)
        text = "".join(map(_line, rows))
        if (found := self.path.read_bytes()) != text.encode():
            write_text(self.path, text)
            if not text.encode().startswith(found):
                say(f"{self.path}: the last line was torn off and is discarded; its question is asked again")
        self.rows = {row["index"]: row for row in rows}

    def _write_meta(self, *, complete: bool) -> None:
        write_json(self.meta_path, {"config": self.config, "spent": self.spent, "complete": complete})


def score(index: int, question: Question, *, response: Response, rules: Mapping[str, Rule]) -> dict[str, Any]:
    """One line of ``predictions/<benchmark>.jsonl``: question, reference, response, and what was made of it."""
    parsed, example = parse_response(response.text, response.prefix), question.example
    own = {"scores": {name: rule(parsed.answer, question) for name, rule in rules.items()}} if rules else {}
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


def _check(backend: str, **counts: int | None) -> None:
    if backend not in BACKENDS:
        raise EvaluationError(f"unknown backend {backend!r}; use one of {', '.join(BACKENDS)}")
    for name, count in counts.items():
        if count is not None and count < 1:
            raise EvaluationError(f"{name} must be at least 1, got {count}")


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
        rows = [score(*questions[at], response=response, rules=rules) for at, response in batch]
        now = _clock() | asdict(generator.stats)
        ledger.add(rows, {key: now[key] - before[key] for key in ledger.spent})
        advance(rows)
        before = now


def _generator(model: Model, backend: str, *, cap: int, batch_size: int | None, say: Callable[[str], None]) -> Any:
    if backend == "vllm":
        from balanced_thinking.evaluation.vllm_backend import VllmGenerator

        if isinstance(model, tuple):
            raise EvaluationError("backend 'vllm' loads the model itself; give a folder or hub id, not a loaded model")
        return VllmGenerator(fspath(model), cap, batch_size)
    if isinstance(model, tuple):
        loaded, processor = model
    else:
        from balanced_thinking.models.modeling import load_model

        loaded, processor = load_model(fspath(model))
    return Generator(loaded, processor, cap, batch_size=batch_size, notify=say)


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

        yield advance, lambda line: console.print(line, markup=False, highlight=False)


def _measured(ledger: Ledger, count: int, *, expects_think: bool) -> dict[str, Any]:
    rows = ledger.finish(count)
    rates = summarise(rows, expects_think=expects_think)
    return rates | {"sources": _by_source(rows), "stages": [ledger.stage()]}


def _by_source(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    sources: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        sources.setdefault(row["source"], []).append(row)
    return {
        name: {"n": len(own), "accuracy": sum(row["correct"] for row in own) / len(own)} | mean_scores(own)
        for name, own in sorted(sources.items())
    }


def _identity(model: Model, target: Target) -> dict[str, str]:
    told = [(asked.example, asked.also) for asked in target.questions]
    questions = [[e.id, e.question, e.choices, e.answer, e.kind, len(e.images), *also] for e, also in told]
    return {"model": model_identity(model), "benchmark": target.name, "questions": content_hash(questions)}


def _label(model: Model) -> str:
    return str(getattr(model[0], "name_or_path", "")) if isinstance(model, tuple) else fspath(model)


def _reference(image: Any) -> str | None:
    """The path of a picture; None for one that has none (encoded bytes, PIL images)."""
    if isinstance(image, dict):
        image = image.get("path")
    return fspath(image) if isinstance(image, str | PathLike) else None


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _line(row: dict[str, Any]) -> str:
    # Escaped to ASCII: a response may hold lone surrogates, which UTF-8 cannot write.
    return json.dumps(row) + "\n"


def _clock() -> dict[str, float]:
    return {"seconds": time.perf_counter(), "cpu_seconds": time.process_time()}
