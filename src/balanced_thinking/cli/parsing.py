"""Parsers whose complaints are one line with a remedy, for short verbs and for recipes of some 200 fields."""

import argparse
import dataclasses
import difflib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from balanced_thinking.errors import ConfigError


class OneLineParser(argparse.ArgumentParser):
    """``argparse`` without abbreviations, usage dump and exit: wrong usage is a ``ConfigError``."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see {self.prog} --help)")

    def parse_all(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse; an unknown option names the nearest known one."""
        known, unknown = self.parse_known_args(arguments)
        if unknown:
            options = [option for action in self._actions for option in action.option_strings]
            raise ConfigError(unknown_option(unknown[0], options, f"{self.prog} --help"))
        return known


def unknown_option(option: str, options: Iterable[str], help_command: str) -> str:
    """One line for an option that does not exist."""
    near = difflib.get_close_matches(option.split("=")[0], list(options), n=1)
    return f"unknown option {option}; " + (f"did you mean {near[0]}?" if near else f"see {help_command}")


def columns_of(text: str | None) -> Any:
    """The value of ``--columns``: our names to the file's, written as JSON.

    Raises:
        ConfigError: not JSON.
    """
    try:
        return json.loads(text) if text else {}
    except ValueError as error:
        raise ConfigError(f'columns must be JSON such as {{"completion": "response"}}, not {text}') from error


def add_reading(parser: argparse.ArgumentParser) -> None:
    """The options that say how a data file is read."""
    files = parser.add_argument_group("data files", "how to read a file of yours; named as in training")
    files.add_argument("--dataset_format", help="data format; unset: found out, and said")
    files.add_argument("--image_root", help="folder of relative picture paths; unset: the data file's")
    files.add_argument("--answer_from", help="tag, boxed, after_think or field")
    files.add_argument("--columns", help='our names to the file\'s as JSON: {"question": "frage"}')
    files.add_argument("--allow_outside", action="store_true", help="allow pictures outside the data's folder")


def reading_of(options: argparse.Namespace) -> dict[str, Any]:
    """The values of ``add_reading`` as options of ``load_examples``."""
    return {
        "format": options.dataset_format,
        "image_root": options.image_root,
        "answer_from": options.answer_from,
        "columns": columns_of(options.columns),
        "allow_outside": options.allow_outside,
    }


def mapping_of(text: str | None, *, name: str) -> dict[str, Any] | None:
    """The value of an option that is a JSON object; None where it is not given, {} where it is empty.

    Raises:
        ConfigError: not a JSON object.
    """
    if text is None:
        return None
    try:
        value = json.loads(text or "{}")
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ConfigError(f'{name} must be a JSON object, not {text}; write it as {{"key": "value"}}')
    return value


def split_dry_run(arguments: Sequence[str]) -> tuple[bool, list[str]]:
    """Whether ``--dry-run`` is among the arguments, and the others."""
    flags = ("--dry-run", "--dry_run")
    return any(flag in arguments for flag in flags), [each for each in arguments if each not in flags]


def parse_recipe(
    types: Sequence[type],
    recipe: Sequence[str] | Mapping[str, Any],
    *,
    prog: str,
    presets: Callable[[str], Mapping[str, Any]] | None = None,
    preset_field: str = "",
) -> tuple[Any, ...]:
    """Instances of the dataclasses from ``--config recipe.yaml`` and ``--field value``; the command line wins.

    Args:
        types: The dataclasses whose fields may be set.
        recipe: The command line, or a mapping of fields instead of it.
        prog: The verb, for messages.
        presets: What the value of ``preset_field`` sets; stands below the recipe.
        preset_field: The field that names a preset.

    Raises:
        ConfigError: a field that none of the types has (with the nearest that exists), a value that does not fit, or a
            file that is missing or not a YAML mapping.
    """
    from trl import TrlParser

    class RecipeParser(TrlParser):
        def error(self, message: str) -> NoReturn:
            raise ConfigError(f"{message} (see {prog} --help)")

    parser = RecipeParser(types, prog=prog, allow_abbrev=False)
    if isinstance(recipe, Mapping):
        arguments, values = [], dict(recipe)
        check_keys(values, types, source=prog, remedy=f"see {prog} --help")
    else:
        arguments = _separate_config(recipe)
        values = _config_values(arguments, types, prog)
    fields = {f"--{item.name}" for kind in types for item in dataclasses.fields(kind)}
    try:
        if presets is not None and (name := _preset_name(arguments, values, preset_field, prog)) is not None:
            parser.set_defaults(**presets(name))
        if isinstance(recipe, Mapping):
            parser.set_defaults_with_config(**values)
        *instances, unknown = parser.parse_args_and_config(arguments, return_remaining_strings=True)
    except ConfigError:
        raise
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(str(error).strip().split("\n")[0]) from error
    if unknown:
        raise ConfigError(unknown_option(unknown[0], fields, f"{prog} --help"))
    return tuple(instances)


def _preset_name(arguments: Sequence[str], values: Mapping[str, Any], field: str, prog: str) -> str | None:
    """The preset that the command line names, else the recipe's."""
    given = OneLineParser(prog=prog, add_help=False)
    given.add_argument(f"--{field}", default=values.get(field))
    return getattr(given.parse_known_args(list(arguments))[0], field)


def _separate_config(arguments: Sequence[str]) -> list[str]:
    """``--config=FILE`` as ``--config FILE``, which is the only form TRL's parser knows."""
    result: list[str] = []
    for argument in arguments:
        result += argument.split("=", 1) if argument.startswith("--config=") else [argument]
    return result


def _config_values(arguments: list[str], types: Sequence[type], prog: str) -> dict[str, Any]:
    """What the file behind ``--config`` holds, its keys checked; empty without one."""
    if "--config" not in arguments:
        return {}
    index = arguments.index("--config") + 1
    if index >= len(arguments):
        raise ConfigError("--config needs a file")
    values = read_yaml(arguments[index])
    fields = {key: value for key, value in values.items() if key != "env"}
    check_keys(fields, types, source=arguments[index], remedy=f"see {prog} --help")
    return values


def check_keys(values: Mapping[str, Any], types: Sequence[type], *, source: str, remedy: str) -> None:
    """Refuse a key that is no field of the dataclasses.

    Raises:
        ConfigError: names the key and the nearest field.
    """
    known = [item.name for kind in types for item in dataclasses.fields(kind)]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]}?" if near else remedy
            raise ConfigError(f"{source}: unknown key {key!r}; {hint}")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML mapping.

    Raises:
        ConfigError: the file is missing, not UTF-8, not YAML, or no mapping.
    """
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a YAML mapping of field: value")
    return values
