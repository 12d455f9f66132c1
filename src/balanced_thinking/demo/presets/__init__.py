"""The embedded models by name: one literal table; a name becomes a folder in the plain Hugging Face layout.

A preset that ships in the package is used from there; any other is built on the user's machine and cached under a hash
of everything that made it, whole or not at all. What it leaves out: how a preset is made (one module each).
To add one: a module beside this one with ``make(folder, progress=...)``, and an entry in ``PRESETS``.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from balanced_thinking.errors import ConfigError
from balanced_thinking.runinfo import build_once, cache_dir, content_hash

_HERE = Path(__file__).parent
_PACKAGE = _HERE.parents[1]


@dataclass(frozen=True, slots=True)
class Preset:
    """An embedded model.

    Attributes:
        name: What the user types.
        description: One line.
        module: The module beside this one that makes it.
        made_by: The source files, relative to the package, whose content decides what comes out.
    """

    name: str
    description: str
    module: str
    made_by: tuple[str, ...]

    @property
    def shipped(self) -> Path:
        """Its folder in the package (which may not exist)."""
        return _HERE / self.name

    def fingerprint(self) -> str:
        """Hash of the sources that make it."""
        return content_hash({name: (_PACKAGE / name).read_text(encoding="utf-8") for name in self.made_by})


PRESETS: dict[str, Preset] = {
    "tiny-qwen2_5_vl": Preset(
        "tiny-qwen2_5_vl",
        "Qwen2.5-VL in 2.8 M parameters, pre-trained on facts, captions and direct questions of icons",
        "tiny_qwen2_5_vl",
        (
            "demo/presets/tiny_qwen2_5_vl.py",
            "demo/presets/tokenizer.py",
            "demo/presets/align.py",
            "demo/presets/pretrain.py",
            "demo/presets/muon.py",
            "evaluation/benchmarks/icons.py",
            "evaluation/benchmarks/icons_pool.py",
            "evaluation/benchmarks/icons_pretraining.py",
            "evaluation/benchmarks/icons_scene.py",
            "evaluation/benchmarks/icons_tasks.py",
            "evaluation/benchmarks/icons_traces.py",
        ),
    ),
}


def resolve(name_or_path: str | Path) -> Path | str:
    """A preset's folder (built on first use if it does not ship); anything else is returned unchanged.

    An existing folder wins over a preset of the same name; an unknown name passes through as a hub id.
    """
    preset = PRESETS.get(str(name_or_path))
    if preset is None or Path(name_or_path).is_dir():
        return name_or_path
    if (preset.shipped / "config.json").is_file():
        return preset.shipped
    return build(preset.name)


def build(name: str, folder: str | Path | None = None, *, progress: bool = True) -> Path:
    """Make a preset anew: in ``folder``, or in the cache (where one that is there already is kept).

    A build that was stopped goes on where it was.

    Raises:
        ConfigError: no such preset, or ``folder`` holds something else.
    """
    preset = PRESETS.get(name)
    if preset is None:
        raise ConfigError(f"preset {name!r} is unknown; choose one of {', '.join(PRESETS)}")
    key = preset.fingerprint()
    make: Callable[..., None] = importlib.import_module(f"{__name__}.{preset.module}").make
    work = cache_dir() / "presets" / f"{name}-{key}.work"
    if folder is not None and Path(folder).is_dir() and any(Path(folder).iterdir()):
        raise ConfigError(f"{folder} is not empty; name a new folder for {name}")
    place = Path(folder) if folder is not None else cache_dir() / "presets" / f"{name}-{key}"
    return build_once(place, lambda target: make(target, work=work, progress=progress))


def list_presets() -> list[str]:
    """One line for each preset: name, description, where it is."""
    lines = []
    for preset in PRESETS.values():
        cached = cache_dir() / "presets" / f"{preset.name}-{preset.fingerprint()}"
        if (preset.shipped / "config.json").is_file():
            where = "ships with the package"
        else:
            where = f"cached in {cached}" if cached.is_dir() else "built on first use"
        lines.append(f"{preset.name}: {preset.description} ({where})")
    return lines
