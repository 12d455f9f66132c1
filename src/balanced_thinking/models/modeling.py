"""A folder or hub id becomes a model, and a model becomes one that scores weighted rows.

``add_weighted_head`` gives a transformers model one extra way to be called: instead of logits it returns the weighted
loss and the nll of each position. It lives inside the model's forward, so that the hooks of DDP, FSDP and DeepSpeed
run; the head is looked up on each call, since these wrappers replace it. What it leaves out: the weights themselves
(``core.schedule``, ``training.sft``) and loading from a checkpoint (``models.checkpoints``).
"""

import contextlib
import functools
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.trainer_utils import get_last_checkpoint

from balanced_thinking.core.loss import token_weights, weighted_linear_cross_entropy
from balanced_thinking.data.families import keep_saved_settings
from balanced_thinking.errors import CheckpointError, ConfigError
from balanced_thinking.models.devices import default_device, is_out_of_memory


class Targets(NamedTuple):
    """What a weighted forward scores: labels and segments already shifted, and how they are weighted.

    Weights travel as plain numbers, not as a float tensor, which FSDP and DeepSpeed would cast to bf16.

    Attributes:
        labels: Token that each position must predict; -100 where nothing is trained.
        segment_ids: Segment of that token; 0 = outside every segment.
        weights: Weight of each segment, or None for one weight on every trained token (``token_mean``, evaluation).
        denominator: Responses of the whole step, or its trained tokens when ``weights`` is None.
        segment_counts: Tokens of each segment in the whole step, for pooled means; None for means per response.
    """

    labels: Int[Tensor, "batch seq"]
    segment_ids: Int[Tensor, "batch seq"]
    weights: Mapping[str, float] | None
    denominator: int
    segment_counts: Mapping[str, int] | None = None

    def token_weights(self) -> Float[Tensor, "batch seq"]:
        """Weight of each position's nll in the loss."""
        if self.weights is None:
            return (self.labels != -100).to(torch.float32) / max(self.denominator, 1)
        return token_weights(
            self.segment_ids, self.weights, sequence_count=max(self.denominator, 1), segment_counts=self.segment_counts
        )


class WeightedOutput(NamedTuple):
    """Loss (scalar, differentiable, fp32) and nll of each position (detached, fp32, 0 where the weight is 0)."""

    loss: Float[Tensor, ""]
    nll: Float[Tensor, "batch seq"]


def load_model(
    name: str | Path, *, device: torch.device | str | None = None, dtype: torch.dtype | str | None = None, **kwargs: Any
) -> tuple[nn.Module, Any]:
    """Model and processor of a folder or hub id, in evaluation mode on ``device`` (default: ``default_device()``).

    ``dtype`` None: as the weights were saved on an accelerator, float32 on the CPU.

    Raises:
        CheckpointError: the folder lacks a file, weights miss keys, the hub id cannot be had, or memory runs out.
    """
    from transformers import AutoModelForImageTextToText

    check_name(name)
    processor = load_processor(name)
    place = torch.device(device or default_device())
    if dtype is None:
        dtype = torch.float32 if place.type == "cpu" else "auto"
    with _enough_memory(name, place), one_line(name):
        model, info = AutoModelForImageTextToText.from_pretrained(
            str(name), dtype=dtype, output_loading_info=True, **kwargs
        )
    refuse_missing(name, info)
    with _enough_memory(name, place):
        return model.eval().to(place), processor


def refuse_missing(name: str | Path, info: Mapping[str, Any]) -> None:
    """Refuse weights that lack tensors of the model, which transformers fills with random numbers.

    Raises:
        CheckpointError: ``info`` (of ``output_loading_info=True``) tells of missing keys.
    """
    missing = sorted(map(str, info["missing_keys"]))
    if missing:
        raise CheckpointError(
            f"{name}: the weights lack {len(missing)} tensors of the model ({', '.join(missing[:3])}, ...); "
            "the folder is incomplete or of another architecture"
        )


def model_class(config: Any) -> Any:
    """The class that a configuration names, as TRL chooses it; else the auto class of its remote code."""
    import transformers

    named = getattr(transformers, (config.architectures or [""])[0], None)
    if named is not None:
        return named
    remote = getattr(config, "auto_map", None) or {}
    auto = ("AutoModelForImageTextToText", "AutoModelForCausalLM")
    return getattr(transformers, next((name for name in auto if name in remote), auto[0]))


def load_processor(name: str | Path, **kwargs: Any) -> Any:
    """Processor (or tokenizer, for a text-only model) of a folder or hub id; a bare adapter's folder may hold one.

    Raises:
        CheckpointError: the folder lacks a file, or the hub id cannot be had.
    """
    from transformers import AutoProcessor

    if not any(Path(name).glob("*processor_config.json")):
        check_name(name)
    with one_line(name):
        processor = AutoProcessor.from_pretrained(str(name), **kwargs)
    keep_saved_settings(processor)
    return processor


def check_name(name: str | Path) -> None:
    """Refuse what is plainly no model before anything is prepared for it.

    Raises:
        CheckpointError: a path that does not exist, or a folder without a model.
    """
    path = Path(name)
    if path.exists() and not (path / "config.json").is_file():
        checkpoint = get_last_checkpoint(str(path)) if path.is_dir() else None
        remedy = f"give its newest checkpoint, {checkpoint}" if checkpoint else "give a folder that training wrote"
        raise CheckpointError(f"{path} is not a model folder: it has no config.json; {remedy}")
    if path.exists():
        return
    if path.is_absolute() or str(name).startswith(".") or len(path.parts) > 2:
        raise CheckpointError(f"there is no model folder {path}; give a folder that training wrote, or a hub id")
    if len(path.parts) == 1:
        _refuse_unknown(str(name))


def _refuse_unknown(name: str) -> None:
    """A bare name is seldom a hub id; asked once here, where transformers would try again for a minute."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError

    if (Path(constants.HF_HUB_CACHE) / f"models--{name}").is_dir():
        return
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"))
    except (EntryNotFoundError, GatedRepoError):
        return  # it is there, and transformers knows what to say of it
    except Exception as error:  # whatever the network or the hub makes of it
        raise CheckpointError(
            f"there is no model folder {name!r}, and the hub does not give such a model ({type(error).__name__}); give "
            f"a folder or owner/name; of a preset (`balanced presets list`) Python takes the folder that `balanced "
            f"presets path {name}` prints"
        ) from None


@contextlib.contextmanager
def one_line(name: str | Path) -> Iterator[None]:
    """What the loading of a model raises becomes a ``CheckpointError`` that names it."""
    try:
        yield
    except (CheckpointError, torch.OutOfMemoryError):
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().split("\n")[0]
        raise CheckpointError(f"cannot load the model {name}: {first}; give a model folder or a hub id") from error


@contextlib.contextmanager
def _enough_memory(name: str | Path, device: torch.device) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise CheckpointError(
            f"the model {name} does not fit into the memory of {device}; load it as bfloat16 (--dtype bfloat16), free "
            "memory that others hold, or use a device with more"
        ) from error


def ready_base(model: Any, *, tower_frozen: bool) -> Any:
    """The transformers model of a trainer, that under an adapter too, ready for accelerate to wrap.

    Every trainer of ours calls it behind its own ``__init__``: the tower is frozen if it shall be, and the layers are
    named by which FSDP cuts the model.

    Raises:
        ConfigError: there is no tower to freeze.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if tower_frozen:
        freeze_vision_tower(base)
    name_present_layers(base)
    return base


def name_present_layers(model: Any) -> None:
    """Take out of ``_no_split_modules`` the classes that the model has not got.

    transformers 5.23 gathers the names from all parts, and of CLIP and SigLIP those of the text tower too, which LLaVA
    and Gemma 3 leave out; accelerate, which wraps what is named there unless told otherwise, then cannot start.
    """
    named = getattr(model, "_no_split_modules", None)
    if named:
        model._no_split_modules = set(named) & {type(module).__name__ for module in model.modules()}


def freeze_vision_tower(model: Any) -> None:
    """Leave the weights of the image encoder (adapters on it too) as they are; the text model trains on.

    Raises:
        ConfigError: the model has no image encoder.
    """
    _vision_tower(model).requires_grad_(False)


def vision_tower_name(model: Any) -> str:
    """The path of the image encoder in the model, such as ``model.visual``.

    Raises:
        ConfigError: the model has no image encoder.
    """
    tower = _vision_tower(model)
    return next(name for name, module in model.named_modules() if module is tower)


def _vision_tower(model: Any) -> Any:
    tower = model.get_encoder(modality="image")
    if tower in (model, model.base_model):  # transformers' way of saying that there is none
        raise ConfigError(f"{type(model).__name__} has no vision tower to freeze; leave freeze_vision_tower off")
    return tower


def add_weighted_head(model: Any) -> None:
    """Let ``model(..., targets=Targets(...))`` return a ``WeightedOutput`` instead of logits.

    Other calls are passed on unchanged, so generation and TRL's own head keep working. Call it on the base model
    (under PEFT on ``get_base_model()``), before accelerate wraps it.

    Raises:
        ConfigError: an adapter sits on the head, whose weight would be used without it.
    """
    head = model.get_output_embeddings()
    if head is None:
        raise ConfigError(f"{type(model).__name__} has no language-model head, so it cannot be trained on responses")
    if hasattr(head, "base_layer"):
        raise ConfigError("adapters on the language-model head are not supported; take lm_head out of target_modules")
    original = model.forward
    softcap, scale = logit_transform(model.config)

    # Keep the original signature: generate() and the Trainer inspect it.
    @functools.wraps(type(model).forward)
    def forward(self: Any, *args: Any, targets: Targets | None = None, **kwargs: Any) -> Any:
        if targets is None:
            return original(*args, **kwargs)
        kwargs["use_cache"] = False
        hidden = self.base_model(*args, **kwargs).last_hidden_state
        return _score(self.get_output_embeddings(), hidden, targets, softcap=softcap, scale=scale)

    model.forward = types.MethodType(forward, model)


def _score(head: Any, hidden: Tensor, targets: Targets, *, softcap: float | None, scale: float) -> WeightedOutput:
    weight, bias = head.weight, getattr(head, "bias", None)
    targets = targets._replace(
        labels=targets.labels.to(weight.device), segment_ids=targets.segment_ids.to(weight.device)
    )
    hidden = hidden.to(weight.device)
    with _gathered(weight, bias):
        loss, nll = weighted_linear_cross_entropy(
            hidden.reshape(-1, hidden.size(-1)),
            weight,
            targets.labels.reshape(-1),
            targets.token_weights().reshape(-1),
            bias=bias,
            softcap=softcap,
            scale=scale,
        )
    return WeightedOutput(loss, nll.view(targets.labels.shape))


def _gathered(weight: Tensor, bias: Tensor | None) -> Any:
    """ZeRO-3 keeps parameters partitioned outside their module's forward; anything else needs nothing."""
    if not hasattr(weight, "ds_id"):
        return contextlib.nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([p for p in (weight, bias) if p is not None])


def logit_transform(config: Any) -> tuple[float | None, float]:
    """(softcap, scale) of the model's head: logits = softcap * tanh(scale * hidden @ head.T / softcap).

    Names as transformers' configurations have them: ``final_logit_softcapping`` (Gemma 2), ``logit_scale`` (Cohere),
    ``lm_head_multiplier`` (Falcon-H1), ``logits_scaling`` (Granite divides by it).
    """
    text = config.get_text_config()
    softcap = getattr(text, "final_logit_softcapping", None)
    for name in ("logit_scale", "lm_head_multiplier"):
        value = getattr(text, name, None)
        if value is not None:
            return softcap, float(value)
    divisor = getattr(text, "logits_scaling", None)
    return softcap, 1.0 if divisor is None else 1.0 / float(divisor)
