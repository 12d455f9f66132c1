"""What a run folder says of itself, and files that are never half-written.

What it leaves out: torch (the device string is passed in), checkpoints (``models.checkpoints``).
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from balanced_thinking.errors import BalancedThinkingError, ConfigError, DataError

PACKAGES = (
    "balanced-thinking",
    "torch",
    "torchvision",
    "transformers",
    "trl",
    "accelerate",
    "datasets",
    "peft",
    "numpy",
)


def cache_dir() -> Path:
    """Folder for what is built once: ``$BALANCED_THINKING_CACHE``, else ``~/.cache/balanced-thinking``."""
    return Path(os.environ.get("BALANCED_THINKING_CACHE") or Path.home() / ".cache" / "balanced-thinking").expanduser()


def content_hash(value: Any, *, length: int = 16) -> str:
    """Hexadecimal SHA-256 of a JSON value; the same for the same content, whatever the key order."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=_as_json)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def weights_digest(folder: str | os.PathLike[str]) -> str | None:
    """SHA-256 (16 digits) of the names and all bytes of a folder's weight files; None where it holds none.

    All bytes, since what an adapter or a frozen part leaves alone can stand at both ends of a file.
    """
    files = sorted(path for pattern in ("*.safetensors", "*.bin") for path in Path(folder).glob(pattern))
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16] if files else None


def _as_json(value: Any) -> Any:
    """Sets in a fixed order, which their text is not in from one process to the next; all else as text."""
    return sorted(value, key=str) if isinstance(value, set | frozenset) else str(value)


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """``folder``, made by ``build(temporary folder)`` if it is not there yet.

    The folder appears whole or not at all: it is built beside its place and renamed. Of two processes the second waits
    for the first (where the system has file locks), and what a killed build left behind is removed after a day.
    """
    folder = Path(folder)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(folder)
    with _locked(folder.parent / f".{folder.name}.lock"):
        if not folder.is_dir():
            _build(folder, build)
    return folder


def _build(folder: Path, build: Callable[[Path], None]) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.building-", dir=folder.parent))
    try:
        build(temporary)
        temporary.chmod(0o755)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file lock that the system releases when the process ends, however it ends."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with path.open("w") as file:
        # A thread of the same process has its own open file, so it waits as well.
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_stale(folder: Path, *, seconds: float = 86400.0) -> None:
    for left in folder.parent.glob(f".{folder.name}.building-*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > seconds:
                shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def writing(
    place: Path, remedy: str = "choose another place", *, error: type[BalancedThinkingError] = ConfigError
) -> Iterator[None]:
    """Around the writing of a file or folder that a user named: what the system refuses becomes one line.

    Raises:
        ConfigError: or ``error``: ``place`` cannot be written.
    """
    try:
        yield
    except OSError as refused:
        reason = refused.strerror or str(refused) or type(refused).__name__
        raise error(f"{place} cannot be written ({reason}); {remedy}") from refused


def check_writable(folder: Path, remedy: str = "choose another place") -> None:
    """Make ``folder`` and refuse it if no file could be written in it, before the work whose result it is to hold.

    Raises:
        ConfigError: it cannot be written.
    """
    with writing(folder, remedy):
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def write_text(path: Path, text: str) -> None:
    """Write ``text`` so that a reader sees the old file or the new one, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """``value`` as indented JSON, written as ``write_text`` does."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def append_jsonl(path: Path, row: dict[str, Any]) -> None:
    """Append one line, flushed to the system before returning.

    A last line torn by a kill is removed first: the new line would otherwise continue it and spoil both.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        _end_last_line(file)
        file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())


def _end_last_line(file: IO[bytes]) -> None:
    """Leaves the file empty or with a line end as its last byte, keeping just the lines that ``read_jsonl`` reads."""
    size = file.seek(0, os.SEEK_END)
    if size:
        file.seek(-1, os.SEEK_END)
    if not size or file.read(1) == b"\n":
        return
    file.seek(0)
    content = file.read()
    tail = content[content.rfind(b"\n") + 1 :]
    try:
        json.loads(tail)
        file.write(b"\n")
    except ValueError:
        file.truncate(size - len(tail))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All rows; a last line torn by a kill (not JSON to its end) is left out.

    Raises:
        DataError: a line before the last is not JSON.
    """
    path = Path(path)
    return [row for _, row in numbered_jsonl(path)] if path.exists() else []


def numbered_jsonl(path: Path) -> list[tuple[int, Any]]:
    """As ``read_jsonl``, each value with the number of its line, from 1."""
    lines = path.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append((number, json.loads(line)))
        except (ValueError, RecursionError) as error:
            if number == len(lines) or not any(rest.strip() for rest in lines[number:]):
                break
            raise DataError(
                "not a line of JSON", file=path, record=f"line {number}", remedy="delete the line or the file"
            ) from error
    return rows


def package_versions() -> dict[str, str | None]:
    """Version of each package that can change a result; None where it is not installed."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def source_commit() -> str | None:
    """Commit of this package's own checkout (with ``+changes`` if modified), or None when it is installed otherwise."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty=+changes", "--abbrev=12"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() or None


def run_info(config: dict[str, Any], *, device: str | None = None, seed: int | None = None) -> dict[str, Any]:
    """What ``run.json`` holds: resolved configuration, versions, commit, seed, device, threads, start time."""
    return {
        "config": config,
        "seed": seed,
        "device": device,
        "threads": _threads(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": package_versions(),
        "commit": source_commit(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _threads() -> int:
    """``OMP_NUM_THREADS``, of which a list such as "4,2" means 4 for the outermost level, else the cores."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() else os.cpu_count() or 1
