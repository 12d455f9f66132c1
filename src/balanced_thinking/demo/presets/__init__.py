"""The embedded models by name: one literal table; a name becomes a folder in the plain Hugging Face layout.

A preset that ships in the package is used from there; any other is built on the user's machine and cached under a hash
of everything that made it, whole or not at all. What it leaves out: how a preset is made (``tiny``, ``pretrain``).
To add one: a module in ``families`` with a line in its table, and a line in ``PRESETS``.
"""

import difflib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from balanced_thinking.errors import ConfigError
from balanced_thinking.runinfo import build_once, cache_dir, check_writable, content_hash

_HERE = Path(__file__).parent
_PACKAGE = _HERE.parents[1]
# The source files, relative to the package, whose content decides what comes out; beside them the family's own.
_MADE_BY = (
    "demo/presets/tiny.py",
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
)


@dataclass(frozen=True, slots=True)
class Preset:
    """An embedded model.

    Attributes:
        name: What the user types.
        description: One line.
        family: The module in ``families`` that tells how it is built.
        maker: The module here that makes it.
    """

    name: str
    description: str
    family: str
    maker: str = "tiny"

    @property
    def shipped(self) -> Path:
        """Its folder in the package (which may not exist)."""
        return _HERE / self.name

    def fingerprint(self) -> str:
        """Hash of the sources that make it."""
        files = dict.fromkeys((*_MADE_BY, f"demo/presets/{self.maker}.py", f"demo/presets/families/{self.family}.py"))
        return content_hash({name: (_PACKAGE / name).read_text(encoding="utf-8") for name in files})


_TRAINED_ON = "pre-trained on facts, captions and direct questions of icons"
PRESETS: dict[str, Preset] = {
    name: Preset(name, f"{description}, {_TRAINED_ON}", family)
    for name, description, family in (
        ("tiny-qwen2_5_vl", "Qwen2.5-VL in 2.8 M parameters", "qwen2_5_vl"),
        ("tiny-qwen3_vl", "Qwen3-VL in 3.1 M parameters", "qwen3_vl"),
        ("tiny-llava_next", "LLaVA-NeXT over Mistral in 2.7 M parameters", "llava_next"),
        ("tiny-gemma3", "Gemma 3 in 2.5 M parameters", "gemma3"),
        ("tiny-idefics3", "Idefics3 (SmolVLM) in 2.4 M parameters", "idefics3"),
    )
}
PRESETS["smollm2"] = Preset(
    "smollm2", "the real SmolLM2-135M-Instruct under a small tower, trained to see icons", "idefics3", "smollm2"
)


def check_model_name(name: str) -> None:
    """Refuse what is plainly no model, before anything is prepared for it.

    Raises:
        ConfigError: a name that is almost a preset's.
        CheckpointError: a path without a model.
    """
    if name in PRESETS:
        return
    _refuse_near(name)
    from balanced_thinking.models.modeling import check_name

    check_name(name)


def resolve(name_or_path: str | Path) -> Path | str:
    """A preset's folder (built on first use if it does not ship); anything else is returned unchanged.

    An existing folder wins over a preset of the same name; an unknown name passes through as a hub id.

    Raises:
        ConfigError: a name that is almost a preset's.
    """
    preset = PRESETS.get(str(name_or_path))
    _refuse_near(str(name_or_path))
    if preset is None or Path(name_or_path).is_dir():
        return name_or_path
    return located(preset.name) or build(preset.name)


def _refuse_near(name: str) -> None:
    near = difflib.get_close_matches(name, list(PRESETS), n=1, cutoff=0.75)
    if near and "/" not in name and name not in PRESETS and not Path(name).exists():
        raise ConfigError(f"there is no model {name!r}; did you mean {near[0]}?")


def located(name: str) -> Path | None:
    """The folder of a preset that ships or was built before; None where it would have to be built."""
    preset = PRESETS[name]
    if (preset.shipped / "config.json").is_file():
        return preset.shipped
    cached = _cached(preset)
    return cached if cached.is_dir() else None


def _cached(preset: Preset) -> Path:
    return cache_dir() / "presets" / f"{preset.name}-{preset.fingerprint()}"


def build(name: str, folder: str | Path | None = None, *, progress: bool = True) -> Path:
    """Make a preset anew: in ``folder``, or in the cache (where one that is there already is kept).

    A build that was stopped goes on where it was.

    Raises:
        ConfigError: no such preset, or ``folder`` holds something else.
    """
    preset = PRESETS.get(name)
    if preset is None:
        raise ConfigError(f"preset {name!r} is unknown; choose one of {', '.join(PRESETS)}")
    if folder is not None:
        _make_room(Path(folder), name)
    key = preset.fingerprint()
    from balanced_thinking.demo.presets import smollm2, tiny

    make = partial(smollm2.make, name) if preset.maker == "smollm2" else partial(tiny.make, preset.family, name)
    work = cache_dir() / "presets" / f"{name}-{key}.work"
    place = Path(folder) if folder is not None else cache_dir() / "presets" / f"{name}-{key}"
    for parent in (place.parent, work.parent):
        check_writable(parent, "name another folder, or another cache in BALANCED_THINKING_CACHE")
    return build_once(place, partial(make, work=work, progress=progress))


def _make_room(folder: Path, name: str) -> None:
    """Whether a preset may be built as ``folder``, before hours of building; one that is empty is removed."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    elif folder.exists():
        what = "not empty" if folder.is_dir() else "a file"
        raise ConfigError(f"{folder} is {what}; name a new folder for {name}")


def list_presets() -> list[str]:
    """One line for each preset: name, description, where it is."""
    lines = []
    for preset in PRESETS.values():
        place = located(preset.name)
        where = "built on first use" if place is None else f"cached in {place}"
        where = "ships with the package" if place == preset.shipped else where
        lines.append(f"{preset.name}: {preset.description} ({where})")
    return lines
