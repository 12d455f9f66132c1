"""Predictions on disk as they come: a stopped evaluation goes on, and one of other settings is refused.

What it leaves out: what a prediction says and how it is scored (``evaluate``).
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import NoneType
from typing import Any

from balanced_thinking.errors import DataError, EvaluationError
from balanced_thinking.runinfo import numbered_jsonl, write_json, write_text, writing


class Ledger:
    """Predictions on disk: finished questions by index, the settings they belong to, and what they have cost.

    Args:
        output_dir: Where ``predictions/`` is.
        name: Of the benchmark.
        config: The settings; one that is off may be left out.
        say: Told with one line what was discarded.
        count: Questions there are.
        scores: Names of the benchmark's own scores, which each prediction holds.

    Raises:
        EvaluationError: the files belong to an evaluation with other settings, are broken or cannot be written, or
            one of the two is missing.
    """

    def __init__(
        self,
        output_dir: Path,
        name: str,
        *,
        config: dict[str, Any],
        say: Callable[[str], None],
        count: int,
        scores: Sequence[str] = (),
    ) -> None:
        self.path = output_dir / "predictions" / f"{name}.jsonl"
        self.meta_path = output_dir / "predictions" / f"{name}.meta.json"
        self.config = config
        self.spent: dict[str, float] = {"seconds": 0.0, "cpu_seconds": 0.0, "prompt_tokens": 0, "new_tokens": 0}
        self.rows: dict[int, dict[str, Any]] = {}
        if self.path.exists():
            self._resume(count, scores, say)
        else:
            self._write_meta(complete=False)

    def add(self, rows: Sequence[dict[str, Any]], cost: dict[str, float]) -> None:
        """Appends finished questions, flushed to the system, and counts their cost."""
        with written(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write("".join(_line(row) for row in rows))
        self.rows.update({row["index"]: row for row in rows})
        self.spent = {key: value + cost.get(key, 0) for key, value in self.spent.items()}
        self._write_meta(complete=False)

    def finish(self, count: int) -> list[dict[str, Any]]:
        """All rows in question order; the file is put into that order too."""
        assert sorted(self.rows) == list(range(count)), "a question was left unanswered"
        ordered = [self.rows[i] for i in range(count)]
        with written(self.path):
            write_text(self.path, "".join(map(_line, ordered)))
        self._write_meta(complete=True)
        return ordered

    def stage(self) -> dict[str, Any]:
        """The evaluation as a stage of ``results.jsonl``."""
        times = {key: round(self.spent[key], 3) for key in ("seconds", "cpu_seconds")}
        return {"name": "evaluate", **times, "steps": None, "tokens": int(self.spent["new_tokens"])}

    def _resume(self, count: int, scores: Sequence[str], say: Callable[[str], None]) -> None:
        before, self.spent = self._read_meta()
        # What a version that did not know a setting left out, and what is left out where it is off, is None.
        for name in dict.fromkeys([*self.config, *before]):
            was, value = before.get(name), self.config.get(name)
            if was != value and not (was is None and name in _FINGERPRINTS):
                other = _OTHER.get(name) or f"another {name} ({_short(was)}, now {_short(value)})"
                raise EvaluationError(
                    f"{self.path} was made with {other}; use another output_dir, or delete the file to evaluate anew"
                )
        try:
            found = self.path.read_bytes()
            numbered = numbered_jsonl(self.path)
        except OSError as error:
            raise EvaluationError(f"{self.path} cannot be read ({error}); use another output_dir") from error
        except DataError as error:
            raise self._broken(error.record, error.message) from error
        for number, row in numbered:
            if fault := _fault(row, count, scores):
                raise self._broken(f"line {number}", fault)
        text = "".join(_line(row) for _, row in numbered)
        if found != text.encode():
            with written(self.path):
                write_text(self.path, text)
        if len(numbered) < sum(bool(line.strip()) for line in found.split(b"\n")):
            say(f"{self.path}: the last line was torn off and is discarded; its question is asked again")
        self.rows = {row["index"]: row for _, row in numbered}

    def _read_meta(self) -> tuple[dict[str, Any], dict[str, float]]:
        """The settings, and what has been spent."""
        try:
            meta = json.loads(self.meta_path.read_text(encoding="utf-8"))
            config, spent = meta["config"], {key: meta["spent"][key] for key in self.spent}
            if not isinstance(config, dict) or not all(_is_number(value) for value in spent.values()):
                raise TypeError("config must be an object, and spent must hold numbers")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise EvaluationError(
                f"{self.meta_path} is missing or cannot be read; delete {self.path.name} beside it to evaluate anew"
            ) from error
        return config, spent

    def _broken(self, line: str | int | None, message: str) -> EvaluationError:
        remedy = "delete the line to have its question asked again, or the file to evaluate anew"
        return EvaluationError(f"{self.path}, {line}: {message}; {remedy}")

    def _write_meta(self, *, complete: bool) -> None:
        with written(self.meta_path):
            write_json(self.meta_path, {"config": self.config, "spent": self.spent, "complete": complete})


def written(path: Path) -> AbstractContextManager[None]:
    """Around the writing of a result.

    Raises:
        EvaluationError: the system refuses it.
    """
    return writing(path, "choose another output_dir, or mend it", error=EvaluationError)


# What is told by a fingerprint, which says nothing to a reader.
_OTHER = {
    "questions": "other questions (its data file has changed, or the way it is read)",
    "pictures": "other pictures",
    "rendering": "another chat template or other settings of the processor",
}
# Files of versions that did not take these tell nothing of them, rather than that they are off.
_FINGERPRINTS = ("pictures", "rendering")

# What the metrics are made of (``evaluate.score`` writes more).
_FIELDS: Mapping[str, tuple[type, ...]] = {
    "source": (str,),
    "correct": (bool,),
    "truncated": (bool,),
    "malformed": (str, NoneType),
    "think_tokens": (int, NoneType),
    "answer_tokens": (int, NoneType),
    "response": (str,),
}


def _fault(row: Any, count: int, scores: Sequence[str]) -> str | None:
    """Why a line is no prediction of this evaluation, or None."""
    if not isinstance(row, dict):
        return f"a prediction must be an object, not {'null' if row is None else type(row).__name__}"
    index = row.get("index")
    if type(index) is not int or not 0 <= index < count:
        return f"index must be the number of one of the {count} questions, from 0, not {_short(index)}"
    wrong = next((name for name, types in _FIELDS.items() if not isinstance(row.get(name, ...), types)), None)
    if wrong is not None:
        return f"{wrong} is missing" if wrong not in row else f"{wrong} cannot be {_short(row[wrong])}"
    own = row.get("scores", {})
    if not isinstance(own, dict) or set(own) != set(scores) or not all(map(_is_number, own.values())):
        return f"scores must hold a number for {', '.join(scores) or 'nothing'}, not {_short(own)}"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and -math.inf < value < math.inf


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _line(row: dict[str, Any]) -> str:
    # Escaped to ASCII: a response may hold lone surrogates, which UTF-8 cannot write.
    return json.dumps(row) + "\n"
