"""The errors that a user, a setting or a file can cause, one line each: what is wrong, where, and what to do.

    BalancedThinkingError (ValueError)
    |-- ConfigError        a setting that is unknown, out of range or contradicts another
    |-- DataError          a record that cannot be used; names file, record and field
    |   `-- SegmentError   a response whose segments are missing, repeated, unclosed or out of order
    |-- CheckpointError    a model folder or checkpoint that is incomplete or belongs to another model
    `-- EvaluationError    an evaluation that cannot be carried out or resumed

All are ``ValueError``s, so that callers who do not know this package can still catch them. The command prints the line
and ends with exit code 2. Faults of our own code are ``assert``s and keep their traceback.
To add one: derive from the nearest class above and draw it into the tree.
"""

from functools import partial
from pathlib import Path
from typing import Any

_LONGEST = 200  # characters of an id in a message


class BalancedThinkingError(ValueError):
    """Base of every error that the user can mend: one line with what is wrong, where, and what to do."""


class ConfigError(BalancedThinkingError):
    """A setting that is unknown, out of range or contradicts another."""


class DataError(BalancedThinkingError):
    """A record that cannot be used.

    The text is one line, ``file, record R, field F: message; remedy``, with the parts that are known.

    Args:
        message: What is wrong.
        file: The file that holds the record.
        record: Its id, or its line or row number (from 1).
        field: The field in the record.
        remedy: What the user can do.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str | Path | None = None,
        record: str | int | None = None,
        field: str | None = None,
        remedy: str | None = None,
    ) -> None:
        message = _innermost(message)
        self.message, self.file, self.record, self.field, self.remedy = message, file, record, field, remedy
        places = [str(file) if file is not None else None, _named("record", record), _named("field", field)]
        where = ", ".join(place for place in places if place)
        text = f"{where}: {message}" if where else message
        super().__init__(" ".join(f"{text}; {remedy}".split()) if remedy else " ".join(text.split()))

    def at(
        self, *, file: str | Path | None = None, record: str | int | None = None, field: str | None = None
    ) -> "DataError":
        """The same error with the place filled in, for callers that know it when the finder did not."""
        error = type(self).__new__(type(self))
        error.__dict__.update(self.__dict__)
        DataError.__init__(
            error,
            self.message,
            file=self.file if self.file is not None else file,
            record=self.record if self.record is not None else record,
            field=self.field if self.field is not None else field,
            remedy=self.remedy,
        )
        return error


class SegmentError(DataError):
    """A response whose segments are missing, repeated, unclosed or out of order.

    ``kind`` is one of ``no-think``, ``unclosed-think``, ``no-answer``, ``unclosed-answer``, ``empty-answer``,
    ``duplicate``, ``order`` (with the segment's own name in place of think and answer). Where training data are read,
    ``no-answer`` is told apart: ``answer-in-think``, and ``untagged-answer`` for text behind the trace without tags.
    """

    def __init__(self, message: str, *, kind: str = "malformed", **where: str | int | Path | None) -> None:
        super().__init__(message, **where)  # type: ignore[arg-type]
        self.kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are rebuilt from their text alone, which a keyword without default would not survive.
        return partial(type(self), kind=self.kind), self.args, self.__dict__


class CheckpointError(BalancedThinkingError):
    """A model folder or checkpoint that is incomplete or belongs to another model."""


class EvaluationError(BalancedThinkingError):
    """An evaluation that cannot be carried out or resumed."""


def _innermost(message: str) -> str:
    """What was raised in a DataLoader's worker: torch hands it on as one text with the traceback before it."""
    if "Original Traceback" not in message:
        return message
    return message.strip().rsplit("\n", 1)[-1].split("Error: ", 1)[-1]


def _named(name: str, value: str | int | None) -> str | None:
    text = str(value)
    return None if value is None else f"{name} {text if len(text) <= _LONGEST else text[:_LONGEST] + '..'}"
