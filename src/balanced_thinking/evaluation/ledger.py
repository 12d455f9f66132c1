"""Predictions on disk as they come: a stopped evaluation goes on, and one of other settings is refused.

What it leaves out: what a prediction says and how it is scored (``evaluate``).
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from balanced_thinking.errors import EvaluationError
from balanced_thinking.runinfo import read_jsonl, write_json, write_text


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


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _line(row: dict[str, Any]) -> str:
    # Escaped to ASCII: a response may hold lone surrogates, which UTF-8 cannot write.
    return json.dumps(row) + "\n"
