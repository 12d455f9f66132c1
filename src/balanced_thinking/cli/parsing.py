"""Parsers whose complaints are one line with a remedy, for short verbs and for recipes of some 200 fields."""

import argparse
import dataclasses
import difflib
import json
import os
import re
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
        options = [option for action in self._actions for option in action.option_strings]
        slip = next((each for each in arguments if each.startswith("--") and _meant(each, options)), None)
        if slip is not None:  # before argparse, which would only miss the option that was meant
            raise ConfigError(unknown_option(slip, options, f"{self.prog} --help"))
        known, unknown = self.parse_known_args(arguments)
        if unknown:
            raise ConfigError(unknown_option(unknown[0], options, f"{self.prog} --help"))
        return known


# What people type from other tools, and what it is called here; only names that a verb has are proposed.
_SLIPS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("model", "model_name", "model_path", "base_model"), ("model_name_or_path", "model")),
    "model_name_or_path": ("model",),
    **dict.fromkeys(("lr", "learning_rates"), ("learning_rate",)),
    **dict.fromkeys(("epoch", "epochs", "num_epochs", "max_epochs"), ("num_train_epochs",)),
    **dict.fromkeys(("batch", "batch_size", "bs", "train_batch_size"), ("per_device_train_batch_size", "batch_size")),
    **dict.fromkeys(
        ("data", "data_path", "train_data", "train_file", "train_dataset", "dataset_name", "dataset_path", "datasets"),
        ("dataset", "benchmark"),
    ),
    **dict.fromkeys(("eval_data", "eval_file", "val_file", "validation_file"), ("eval_dataset",)),
    **dict.fromkeys(("benchmarks", "dataset"), ("benchmark",)),
    **dict.fromkeys(("out", "output", "output_folder", "out_dir", "save_dir"), ("output_dir",)),
    **dict.fromkeys(("step", "steps", "num_steps", "total_steps"), ("max_steps",)),
    **dict.fromkeys(("grad_accum", "accumulation_steps"), ("gradient_accumulation_steps",)),
    **dict.fromkeys(("max_seq_length", "max_seq_len", "cutoff_len"), ("max_length",)),
    **dict.fromkeys(("max_tokens", "max_completion_length"), ("max_new_tokens", "max_completion_length")),
    **dict.fromkeys(("rewards", "reward"), ("reward_funcs",)),
    **dict.fromkeys(("lora", "peft"), ("use_peft",)),
    "seed": ("seeds",),
}


def _meant(name: str, known: Iterable[str]) -> str | None:
    """The known name that a slip of the table stands for; dashes in front are kept. None for any other name."""
    bare = name.split("=")[0]
    dashes, known = "--" if bare.startswith("--") else "", set(known)
    if bare in known:
        return None
    targets = _SLIPS.get(bare.removeprefix("--").replace("-", "_").lower(), ())
    return next((dashes + target for target in targets if dashes + target in known), None)


def unknown_option(option: str, options: Iterable[str], help_command: str) -> str:
    """One line for an option that does not exist."""
    return f"unknown option {option}; {_hint(option, list(options), f'see {help_command}')}"


def _hint(name: str, known: Sequence[str], otherwise: str) -> str:
    near = _meant(name, known) or next(iter(difflib.get_close_matches(name.split("=")[0], known, n=1)), None)
    return f"did you mean {near}?" if near else otherwise


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
    defaults: Mapping[str, Any] | None = None,
) -> tuple[Any, ...]:
    """Instances of the dataclasses from ``--config recipe.yaml`` and ``--field value``; the command line wins.

    Args:
        types: The dataclasses whose fields may be set.
        recipe: The command line, or a mapping of fields instead of it.
        prog: The verb, for messages.
        presets: What the value of ``preset_field`` sets; stands below the recipe.
        preset_field: The field that names a preset.
        defaults: What the verb sets where nobody says anything; stands below everything else.

    Raises:
        ConfigError: a field that none of the types has (with the nearest that exists), a value that does not fit, or a
            file that is missing or not a YAML mapping.
    """
    from trl import TrlParser

    class RecipeParser(TrlParser):
        def error(self, message: str) -> NoReturn:
            raise ConfigError(f"{message} (see {prog} --help)")

    parser = RecipeParser(types, prog=prog, allow_abbrev=False, usage=f"{prog} [--config recipe.yaml] [--dry-run] ..")
    parser.description = (
        "--config FILE: a YAML recipe of the fields below, which the command line overrides; --dry-run: two real steps "
        "on a tiny twin of the model's architecture, without a GPU"
    )
    arguments: list[str] = []
    if isinstance(recipe, Mapping):
        file, values = "", dict(recipe)
        check_keys(values, types, source=prog, remedy=f"see {prog} --help")
    else:
        file, arguments = _config_file(recipe)
        values = _config_values(file, types, prog) if file else {}
    values = {key: "no" if value is False and key.endswith("_strategy") else value for key, value in values.items()}
    fields = {f"--{item.name}" for kind in types for item in dataclasses.fields(kind)}
    try:
        parser.set_defaults(**(defaults or {}))
        if presets is not None and (name := _preset_name(arguments, values, preset_field, prog)) is not None:
            parser.set_defaults(**presets(name))
        parser.set_defaults_with_config(**values)
        *instances, unknown = parser.parse_args_and_config(arguments, return_remaining_strings=True)
    except (ValueError, TypeError, ImportError) as error:
        message = str(error).strip().split("\n")[0]
        where = f"{file}: " if file and _tells_of(message, arguments, values) else ""
        raise ConfigError(where + message) from error
    if unknown:
        raise ConfigError(unknown_option(unknown[0], fields, f"{prog} --help"))
    return tuple(instances)


def parse_training(
    types: Sequence[type],
    recipe: Sequence[str] | Mapping[str, Any],
    *,
    defaults: Mapping[str, Any] | None = None,
    **options: Any,
) -> tuple[Any, ...]:
    """As ``parse_recipe``; rows that are held out are evaluated once an epoch where ``eval_strategy`` is not given.

    Args:
        types: Of the fields; the first is ``DataArguments``, the last but one the trainer's configuration.
        recipe: As for ``parse_recipe``.
        defaults: The same.
        **options: The other arguments of ``parse_recipe``.
    """
    defaults = dict(defaults or {})
    parsed = parse_recipe(types, recipe, defaults=defaults, **options)
    data, config = parsed[0], parsed[-2]
    if config.eval_strategy != "no" and not (data.eval_fraction or data.eval_dataset):
        raise ConfigError(
            f"eval_strategy {config.eval_strategy.value!r} needs rows to evaluate; set eval_fraction or eval_dataset"
        )
    if config.eval_strategy != "no" or not (data.eval_fraction or data.eval_dataset):
        return parsed
    # Below the user's own "no", so that one stays.
    defaults["eval_strategy"] = "steps" if config.eval_steps else "epoch"
    if hasattr(config, "num_generations"):  # TRL wants whole groups in a batch
        defaults["per_device_eval_batch_size"] = config.num_generations_eval or config.num_generations
    return parse_recipe(types, recipe, defaults=defaults, **options)


def check_named(config: Any, model: Any, *, models: str) -> None:
    """Refuse a training without a model, or without a run folder of its own.

    Raises:
        ConfigError: says what to give; ``models``: what a model may be.
    """
    if not model.model_name_or_path:
        raise ConfigError(f"no model given; name one with --model_name_or_path ({models})")
    if config.output_dir in (None, "trainer_output"):  # what transformers takes where none is given
        raise ConfigError("no run folder given; name one with --output_dir (not trainer_output)")


def _preset_name(arguments: Sequence[str], values: Mapping[str, Any], field: str, prog: str) -> str | None:
    """The preset that the command line names, else the recipe's."""
    given = OneLineParser(prog=prog, add_help=False)
    given.add_argument(f"--{field}", default=values.get(field))
    return getattr(given.parse_known_args(list(arguments))[0], field)


def _config_file(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The file behind ``--config FILE`` or ``--config=FILE`` ("" without one), and the other arguments."""
    for index, argument in enumerate(arguments):
        if argument.startswith("--config="):
            return argument.removeprefix("--config="), [*arguments[:index], *arguments[index + 1 :]]
        if argument == "--config":
            if index + 1 >= len(arguments):
                raise ConfigError("--config needs a file")
            return arguments[index + 1], [*arguments[:index], *arguments[index + 2 :]]
    return "", list(arguments)


def _config_values(file: str, types: Sequence[type], prog: str) -> dict[str, Any]:
    """What a recipe holds, its keys checked; variables under ``env`` are set, as TRL's own commands do."""
    values = read_yaml(file)
    variables = values.pop("env", None) or {}
    if not isinstance(variables, dict):
        raise ConfigError(f"{file}: env must be a mapping of variables, not {variables!r}")
    check_keys(values, types, source=file, remedy=f"see {prog} --help")
    os.environ.update({str(key): str(value) for key, value in variables.items()})
    return values


def _tells_of(message: str, arguments: Sequence[str], values: Mapping[str, Any]) -> bool:
    """Whether a fault tells of a key that the recipe sets and the command line does not."""
    said = {part.split("=")[0].removeprefix("--").replace("-", "_") for part in arguments if part.startswith("--")}
    return any(re.search(rf"(?<!\w){re.escape(key)}(?!\w)", message) for key in values if key not in said)


def check_keys(values: Mapping[str, Any], types: Sequence[type], *, source: str, remedy: str) -> None:
    """Refuse a key that is no field of the dataclasses.

    Raises:
        ConfigError: names the key and the nearest field.
    """
    known = [item.name for kind in types for item in dataclasses.fields(kind)]
    for key in values:
        if key not in known:
            raise ConfigError(f"{source}: unknown key {key!r}; {_hint(str(key), known, remedy)}")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML mapping.

    Raises:
        ConfigError: the file is missing, not UTF-8, not YAML, or no mapping, or a key is given twice.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a key that is given twice, of which YAML would take the last one."""

        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            first: dict[tuple[str, str], int] = {}
            for key, _ in node.value:  # as written: what `<<` merges in may be set anew
                if not isinstance(key, yaml.ScalarNode):
                    continue
                line, name = key.start_mark.line + 1, (key.tag, key.value)
                if name in first:
                    where = f"{path}, line {line}: the key {key.value!r} is given twice (first in line {first[name]})"
                    raise ConfigError(f"{where}; leave out one of the two")
                first[name] = line
            return node

    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a YAML mapping of field: value")
    return values
