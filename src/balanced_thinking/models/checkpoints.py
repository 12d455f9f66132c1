"""Strict loading and resume.

transformers 5.23 loads a checkpoint's weights into a live model with ``strict=False`` and by raw key; on Qwen2.5-VL,
LLaVA-NeXT and Gemma 3 nearly all keys miss, so training silently restarts from the initial weights. Here weights go
through ``from_pretrained`` (which knows the key mapping) and a missing key is an error. The private hooks of
``Trainer`` that this needs are overridden in this module only; tests/contract/test_upstream.py fails when they change.
What it leaves out: FSDP and DeepSpeed checkpoints, whose own formats load strictly by themselves.
"""

import contextlib
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from transformers import AutoConfig, TrainerCallback, TrainerState
from transformers.integrations import deepspeed
from transformers.trainer_pt_utils import safe_globals
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from balanced_thinking.errors import CheckpointError
from balanced_thinking.models.modeling import model_class, one_line, refuse_missing

STATE_FILE = "trainer_state.json"
_OWN_FORMAT = ("global_step*", "pytorch_model_fsdp*", "optimizer_*", "*.distcp")


def check_start(model: Any, args: Any) -> None:
    """Whether the folder or hub id that a trainer starts from holds every tensor of its model; no weight is kept.

    Trainers load by themselves and start from random numbers where a tensor is missing. A model that is stored
    quantized is not looked at: only its quantizer knows its keys.

    Args:
        model: What the trainer was given; a model that is loaded already passes.
        args: Of the trainer; its ``model_init_kwargs`` say which revision.

    Raises:
        CheckpointError: a tensor is missing or has another shape, or there is no model.
    """
    if not isinstance(model, str):
        return
    given = args.model_init_kwargs or {}
    hub = {"revision": given.get("revision"), "trust_remote_code": args.trust_remote_code}
    with one_line(model):
        config = AutoConfig.from_pretrained(model, **hub)
    if getattr(config, "quantization_config", None) is None:
        load_whole(model, device_map="meta", **hub)


def load_whole(name: str | Path, **options: Any) -> Any:
    """The model of a folder or hub id in this process alone, with every one of its tensors.

    Raises:
        CheckpointError: a tensor is missing or has another shape, or there is no model.
    """
    hub = {key: options[key] for key in ("revision", "trust_remote_code") if key in options}
    with one_line(name), _outside_zero3():
        kind = model_class(AutoConfig.from_pretrained(name, **hub))
        model, info = kind.from_pretrained(name, output_loading_info=True, **options)
    refuse_missing(name, info)
    return model


def empty_model(name: str, **hub: Any) -> Any:
    """The modules of the model of a folder or hub id, on the meta device, without any weight.

    Raises:
        CheckpointError: there is no model.
    """
    with one_line(name), _outside_zero3(), torch.device("meta"):
        config = AutoConfig.from_pretrained(name, **hub)
        kind = model_class(config)
        return kind.from_config(config, **hub) if hasattr(kind, "from_config") else kind(config)


@contextlib.contextmanager
def _outside_zero3() -> Iterator[None]:
    """Under ZeRO-3 transformers cuts every model that it loads over all ranks, and one rank alone would wait."""
    reference = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if reference is not None and (config := reference()) is not None:
            deepspeed.set_hf_deepspeed_config(config)


def load_weights(model: nn.Module, folder: str | Path) -> None:
    """Load the weights of ``folder`` into ``model``, every one of them.

    Args:
        model: A transformers model, or a PEFT model (then only its adapter is loaded).
        folder: What ``save_pretrained`` wrote.

    Raises:
        CheckpointError: the folder lacks a tensor of the model, holds one that the model lacks, or shapes differ.
    """
    folder = Path(folder)
    if hasattr(model, "get_base_model") and hasattr(model, "peft_config"):
        _load_adapter(model, folder)
        return
    try:
        loaded, info = type(model).from_pretrained(  # type: ignore[attr-defined]
            folder, dtype=model.dtype, output_loading_info=True
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{folder}: cannot load the weights: {_first_line(error)}") from error
    faults = {name: sorted(map(str, info[name])) for name in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    _refuse_faults(folder, {name: keys for name, keys in faults.items() if keys})
    model.load_state_dict(loaded.state_dict(), strict=True)


def _load_adapter(model: Any, folder: Path) -> None:
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    adapter = model.active_adapters[0] if hasattr(model, "active_adapters") else "default"
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        raise CheckpointError(f"{folder} has no {file.name}, but the model in training is an adapter (PEFT)")
    state, expected = load_file(file), set(get_peft_model_state_dict(model, adapter_name=adapter))
    faults = {"missing_keys": sorted(expected - set(state)), "unexpected_keys": sorted(set(state) - expected)}
    _refuse_faults(folder, {name: keys for name, keys in faults.items() if keys})
    set_peft_model_state_dict(model, state, adapter_name=adapter)


def _refuse_faults(folder: Path, faults: dict[str, list[str]]) -> None:
    for name, keys in faults.items():
        kind = name.removesuffix("_keys")
        raise CheckpointError(
            f"{folder}: {len(keys)} {kind} tensors (such as {keys[0]}); the checkpoint is incomplete or belongs to "
            "another model; remove the folder, or start from the model it was made with"
        )


def checkpoint_fault(folder: Path) -> str | None:
    """Why a checkpoint folder cannot be resumed from, or None if it can.

    ``trainer_state.json`` is written last, so without it the checkpoint was never finished; weights, optimizer and the
    random states of each process are opened too, since a disk can fill up or a copy break off.
    """
    folder = Path(folder)
    try:
        state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"no {STATE_FILE}, it was never finished"
    except (OSError, ValueError):
        return f"{STATE_FILE} is not valid, it was never finished"
    if not isinstance(state, dict) or "global_step" not in state:
        return f"{STATE_FILE} names no step"
    if any(any(folder.glob(pattern)) for pattern in _OWN_FORMAT):
        return _random_states_fault(folder)
    return weights_fault(folder) or _torch_files_fault(folder) or _random_states_fault(folder)


def weights_fault(folder: Path) -> str | None:
    """What is wrong with the weight files of a folder, or None; of adapters too."""
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return "no weights (*.safetensors)"
    index = next(iter(folder.glob("*.safetensors.index.json")), None)
    if index is not None:
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError):
            return f"{index.name} is not valid"
        absent = sorted(named - {file.name for file in files})
        if absent:
            return f"{absent[0]} is missing"
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                tensors.keys()
        except (SafetensorError, OSError) as error:
            return f"{file.name} is damaged ({_first_line(error)})"
    return None


def _torch_files_fault(folder: Path) -> str | None:
    for name in ("optimizer.pt", "scheduler.pt"):
        fault = _torch_file_fault(folder / name, map_location="meta")
        if fault:
            return fault
    return None


def _random_states_fault(folder: Path) -> str | None:
    """Each process goes on with its own; transformers only logs that one is missing, and draws other numbers."""
    processes = PartialState().num_processes
    names = [f"rng_state_{number}.pth" for number in range(processes)] if processes > 1 else ["rng_state.pth"]
    for name in names:
        fault = _torch_file_fault(folder / name, map_location="cpu")
        if fault:
            return fault if (folder / name).is_file() else f"{fault}, the random state of one of {processes} processes"
    return None


def _torch_file_fault(file: Path, *, map_location: str) -> str | None:
    if not file.is_file():
        return f"no {file.name}"
    try:
        with safe_globals():
            torch.load(file, map_location=map_location, weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # torch.load raises whatever the broken bytes happen to trigger
        return f"{file.name} is damaged ({_first_line(error)})"
    return None


def last_checkpoint(output_dir: str | Path) -> tuple[Path | None, list[str]]:
    """Newest checkpoint that can be resumed from, and one line for each newer one that cannot."""
    pattern = re.compile(rf"^{PREFIX_CHECKPOINT_DIR}-(\d+)$")
    found = [(int(m[1]), path) for path in Path(output_dir).glob("*") if (m := pattern.match(path.name))]
    passed_over: list[str] = []
    for _, path in sorted(found, reverse=True):
        fault = checkpoint_fault(path)
        if fault is None:
            return path, passed_over
        passed_over.append(f"{path} is passed over: {fault}")
    return None, passed_over


class StrictResume:
    """Mixin over ``transformers.Trainer``: resume and load-best by ``load_weights``, from valid checkpoints only.

    ``train(resume_from_checkpoint=True)`` takes the newest valid checkpoint, and says which it passed over. A
    checkpoint of a run with another number of total steps is refused unless ``allow_new_total_steps`` is set, since
    every schedule would bend.
    """

    allow_new_total_steps = False
    total_steps_remedy = "keep the number of steps"

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """As ``Trainer.train``.

        Raises:
            CheckpointError: no valid checkpoint, or one of another model or length of run.
        """
        if resume_from_checkpoint is True:
            found, passed_over = last_checkpoint(self.args.output_dir)  # type: ignore[attr-defined]
            for line in passed_over:
                self._say(line)
            if found is None:
                raise CheckpointError(f"{self.args.output_dir} holds no valid checkpoint to resume from")  # type: ignore[attr-defined]
            resume_from_checkpoint = str(found)
        if resume_from_checkpoint:
            fault = checkpoint_fault(Path(resume_from_checkpoint))
            if fault is not None:
                raise CheckpointError(f"{resume_from_checkpoint} cannot be resumed from: {fault}")
            self._guard_total_steps(Path(resume_from_checkpoint))
            if self._nothing_left(Path(resume_from_checkpoint)):
                return TrainOutput(self.state.global_step, float("nan"), {})
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)  # type: ignore[misc]

    def _guard_total_steps(self, folder: Path) -> None:
        total = json.loads((folder / STATE_FILE).read_text(encoding="utf-8")).get("max_steps")
        if not self.allow_new_total_steps:
            self.add_callback(_SameTotalSteps(total, folder, self.total_steps_remedy))  # type: ignore[attr-defined]

    def _nothing_left(self, folder: Path) -> bool:
        """Whether the checkpoint is that of the last step; then its weights and state are loaded.

        A run can be killed behind it. transformers would train one step more before it looks at the number of steps.
        """
        state = TrainerState.load_from_json(str(folder / STATE_FILE))
        if state.global_step < state.max_steps:
            return False
        if self.args.max_steps > 0 and self.args.max_steps != state.max_steps:  # type: ignore[attr-defined]
            return False
        best = state.best_model_checkpoint if self.args.load_best_model_at_end else None  # type: ignore[attr-defined]
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:  # type: ignore[attr-defined]
            # Their checkpoints can only be loaded into a model that is already cut.
            rows = self.get_train_dataloader()  # type: ignore[attr-defined]
            self._prepare_for_training(state.max_steps, rows, str(folder))  # type: ignore[attr-defined]
            self.state = state
            if best:
                self._load_best_model()
            return True
        load_weights(self.model, best or folder)  # type: ignore[attr-defined]
        self.state = state
        return True

    def _say(self, line: str) -> None:
        if self.is_world_process_zero():  # type: ignore[attr-defined]
            print(line, flush=True)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:  # type: ignore[attr-defined]
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            return
        load_weights(self.model if model is None else model, resume_from_checkpoint)  # type: ignore[attr-defined]

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:  # type: ignore[attr-defined]
            super()._load_best_model()  # type: ignore[misc]
            return
        load_weights(self.model, self.state.best_model_checkpoint)  # type: ignore[attr-defined]


class _SameTotalSteps(TrainerCallback):
    """Refuses a resumed run whose number of total steps differs; only known once the loop has set it."""

    def __init__(self, total: int | None, folder: Path, remedy: str) -> None:
        self.total, self.folder, self.remedy = total, folder, remedy

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.total is not None and state.max_steps != self.total:
            raise CheckpointError(
                f"{self.folder} belongs to a run of {self.total} steps, this one has {state.max_steps}; the schedule "
                f"would bend; {self.remedy}"
            )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0]
