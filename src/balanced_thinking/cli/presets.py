"""``balanced presets``: list, build and locate the embedded models."""

from collections.abc import Sequence


def run(argv: Sequence[str]) -> int:
    """``list``, ``build NAME [FOLDER]`` or ``path NAME``."""
    from balanced_thinking.cli.parsing import OneLineParser

    parser = OneLineParser(prog="balanced presets", description=__doc__)
    parser.add_argument("action", choices=("list", "build", "path"), help="what to do")
    parser.add_argument("name", nargs="?", help="a preset, for build and path")
    parser.add_argument("folder", nargs="?", help="where build puts it; unset: the cache")
    options = parser.parse_all(argv)

    from pathlib import Path

    from balanced_thinking.demo import presets
    from balanced_thinking.errors import ConfigError

    if options.action == "list" and options.name is not None:
        raise ConfigError(f"presets list takes no names, but {options.name!r} is given; leave it out")
    if options.action == "path" and options.folder is not None:
        raise ConfigError(
            f"presets path takes one name, but {options.folder!r} is given too; leave it out, or take presets build"
        )
    if options.action == "list":
        for line in presets.list_presets():
            print(line)
        return 0
    if options.name not in presets.PRESETS:
        raise ConfigError(f"preset {options.name!r} is unknown; choose one of {', '.join(presets.PRESETS)}")
    if options.action == "path":
        print(presets.resolve(options.name))
    else:
        print(presets.build(options.name, Path(options.folder) if options.folder else None))
    return 0
