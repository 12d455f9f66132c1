"""The weights that a run starts from and those that it ends with; adapters (PEFT) are merged into their base in both.

What it leaves out: checkpoints on the way (``models.checkpoints``).
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trl import ModelConfig, get_peft_config

from balanced_thinking.errors import CheckpointError
from balanced_thinking.models.checkpoints import empty_model, load_whole, weights_fault
from balanced_thinking.models.modeling import check_name, load_processor, vision_tower_name
from balanced_thinking.runinfo import build_once


class Base(NamedTuple):
    """What an adapter belongs to: a folder or hub id, and its revision."""

    name: str
    revision: str | None


def base_of(name: str | Path) -> Base | None:
    """The base of a bare adapter's folder; None where ``name`` is a whole model.

    Raises:
        CheckpointError: the adapter names no base, or one that is not there.
    """
    place = Path(name)
    file = place / "adapter_config.json"
    if not file.is_file() or (place / "config.json").is_file():
        return None
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        base = Base(str(told["base_model_name_or_path"] or ""), told.get("revision"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file} is not an adapter's configuration; give a folder that training wrote") from error
    if not base.name:
        raise CheckpointError(f"{file} names no base model; write it into base_model_name_or_path")
    try:
        check_name(base.name)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: base_model_name_or_path: {error}") from error
    return base


def processor_source(name: str) -> tuple[str, dict[str, Any]]:
    """Where the processor of a model comes from, and its revision: a bare adapter without one has that of its base."""
    base = base_of(name)
    if base is None or any(Path(name).glob("*processor_config.json")):
        return name, {}
    return base.name, {} if base.revision is None else {"revision": base.revision}


def merged_start(name: str, folder: Path, options: Mapping[str, Any]) -> str:
    """``name``, or where it is a bare adapter (PEFT), a folder in which it is merged into its base.

    GRPO's reference model and the final folder need a whole model; folders of this project hold one already.

    Args:
        name: A model or an adapter.
        folder: Where the merged model is built, once.
        options: ``dtype``, ``revision`` (of the base, where the adapter does not say) and ``trust_remote_code``.

    Raises:
        CheckpointError: the adapter or its base cannot be loaded.
    """
    base = base_of(name)
    if base is None:
        return name
    place, options = Path(name), _loading(options)
    if base.revision is not None:
        options["revision"] = base.revision

    def merge(target: Path) -> None:
        merge_adapter(base.name, place, target, options)
        source, revision = processor_source(name)
        hub = {"revision": options.get("revision"), "trust_remote_code": options["trust_remote_code"], **revision}
        load_processor(source, **hub).save_pretrained(target)

    digest = hashlib.sha256(repr(sorted(options.items())).encode())
    for file in sorted(place.glob("adapter_*")):
        digest.update(file.name.encode() + file.read_bytes())
    return str(build_once(folder / f"start-{digest.hexdigest()[:12]}", merge))


def merge_adapter(base: str, adapter: Path, target: Path, options: Mapping[str, Any]) -> None:
    """Write a whole model to ``target``: the base, loaded anew and unquantized, with the adapter merged into it.

    Raises:
        CheckpointError: either cannot be loaded.
    """
    from peft import PeftModel

    fault = weights_fault(adapter)
    if fault is not None:
        raise CheckpointError(f"{adapter} cannot be merged into {base}: {fault}")
    PeftModel.from_pretrained(load_whole(base, **options), str(adapter)).merge_and_unload().save_pretrained(target)


def _loading(options: Mapping[str, Any]) -> dict[str, Any]:
    """Of a trainer's options those that say which weights; TRL loads in fp32 where nothing is said."""
    known = {key: options[key] for key in ("revision", "dtype", "trust_remote_code") if options.get(key) is not None}
    return {"dtype": "float32", "trust_remote_code": False, **known}


def save_final(trainer: Any, folder: Path) -> None:
    """The final model at the top of the folder; with LoRA the merged model there and the adapter beside it.

    Every process must call it: cut models (FSDP, DeepSpeed) are gathered by all.

    Raises:
        CheckpointError: no weights were written.
    """
    if trainer.is_fsdp_enabled:
        # With sharded state dicts, FSDP2's default, Trainer.save_model writes no weights and says nothing.
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    model = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "merge_and_unload"):
        trainer.save_model(str(folder / "adapter"))
        if trainer.is_world_process_zero():
            _save_merged(trainer, model, folder)
    else:
        trainer.save_model(str(folder))
    fault = weights_fault(folder) if trainer.is_world_process_zero() else None
    if fault is not None:
        raise CheckpointError(
            f"{folder}: the trained model was not written: {fault}; under ZeRO-3 set zero3_save_16bit_model, then "
            "start the same command again (the last checkpoint is kept)"
        )


def _save_merged(trainer: Any, model: Any, folder: Path) -> None:
    cut = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if cut or getattr(model.get_base_model(), "is_quantized", False):
        # Cut parameters need all ranks, and merging into quantized ones would round what was trained.
        base = model.peft_config[model.active_adapter].base_model_name_or_path
        given = trainer.args.model_init_kwargs or {}
        options = _loading({"trust_remote_code": trainer.args.trust_remote_code, **given})
        merge_adapter(str(base), folder / "adapter", folder, options)
    else:
        model.merge_and_unload().save_pretrained(folder)
    trainer.processing_class.save_pretrained(folder)


def adapter_config(model: ModelConfig, start: str, *, trust_remote_code: bool = False, tower_frozen: bool) -> Any:
    """TRL's configuration of the adapter, in which one name is the name of a module, and none lies in a frozen tower.

    TRL hands over a list of one as text, which PEFT takes for a pattern that must match a whole path. Names such as
    ``q_proj`` and ``gate_proj`` are those of vision layers too, where an adapter under ``freeze_vision_tower`` would
    never train, yet run in each forward pass and be saved.

    Args:
        model: The user's settings.
        start: Folder or hub id of the model that gets the adapter.
        trust_remote_code: As for loading it.
        tower_frozen: ``freeze_vision_tower``.

    Raises:
        ConfigError: there is no tower to freeze.
        CheckpointError: there is no model.
    """
    config = get_peft_config(model)
    if config is None:
        return None
    target = getattr(config, "target_modules", None)
    if isinstance(target, str) and re.fullmatch(r"[\w.]+", target):
        config.target_modules = {target}
    if tower_frozen:
        bare = empty_model(start, revision=model.model_revision, trust_remote_code=trust_remote_code)
        config.exclude_modules = rf"{re.escape(vision_tower_name(bare))}\..*"
    return config
