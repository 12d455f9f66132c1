"""Rollouts of our own for GRPO, behind TRL's public ``rollout_func``: quicker than its ``generate``, the same law.

TRL reads each prompt once per completion, outside of autocast, and goes on until the last row has ended. Here a group's
prompt is read once, matrix products run in the precision of the training step, and rows leave when they have ended
(``evaluation.decoding``). Tokens are drawn with the trainer's own ``GenerationConfig`` (temperature, top-p, ...).
What it leaves out: vLLM, continuous batching, tools, sharded models and caches of a fixed size, where TRL's stay.
"""

import itertools
import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from accelerate.utils import DistributedType
from PIL import Image
from trl.models import unwrap_model_for_generation

from balanced_thinking.evaluation.decoding import decode, until_end

_WHOLE_MODELS = (
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
    DistributedType.MULTI_XPU,
    DistributedType.MULTI_NPU,
)


# Options of generation that our loop does not follow, and the value with which they do nothing.
_FOREIGN = {"num_beams": 1, "do_sample": True, "use_cache": True, "cache_implementation": None, "max_time": None,
            "stop_strings": None, "penalty_alpha": None, "prompt_lookup_num_tokens": None, "dola_layers": None,
            "assistant_early_exit": None}  # fmt: skip


def serves(trainer: Any) -> bool:
    """Whether ``roll_out`` can make this trainer's completions."""
    args = trainer.args
    if args.use_vllm or args.use_transformers_continuous_batching or trainer.tools:
        return False
    asked = trainer.generation_kwargs
    plain = all(asked.get(name, value) in (value, None) for name, value in _FOREIGN.items())
    return plain and trainer.accelerator.distributed_type in _WHOLE_MODELS


@torch.no_grad()
def roll_out(prompts: list[Any], trainer: Any) -> dict[str, Any]:
    """One sampled completion per prompt, as TRL's ``rollout_func`` wants them.

    Args:
        prompts: Conversations whose messages hold their pictures, or strings; equal ones that follow one another are
            read once.
        trainer: The ``GRPOTrainer`` that asks.

    Returns:
        ``prompt_ids`` and ``completion_ids`` (lists of ids, the end of turn included) and ``logprobs`` None: the
        trainer computes them itself, as after its own ``generate``.
    """
    groups = [len(list(same)) for _, same in itertools.groupby(map(_key, prompts))]
    copies = math.gcd(*groups)
    inputs = encode(trainer, prompts[::copies])
    mask = inputs["attention_mask"].bool()
    prompt_ids = [ids[kept].tolist() for ids, kept in zip(inputs["input_ids"], mask, strict=True)]
    config = trainer.generation_config
    with (
        unwrap_model_for_generation(
            trainer.model_wrapped,
            trainer.accelerator,
            generation_kwargs=trainer.generation_kwargs,
            gradient_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs,
        ) as model,
        trainer.accelerator.autocast(),
    ):
        training = model.training
        model.eval()
        try:
            tokens = model.generate(**inputs, generation_config=config, custom_generate=partial(decode, copies=copies))
        finally:
            model.train(training)
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    rows = zip(tokens.tolist(), until_end(tokens, ends), strict=True)
    completions = [row[: len(ids) + (not cut)] for row, (ids, cut) in rows]
    repeated = [ids for ids in prompt_ids for _ in range(copies)]
    return {"prompt_ids": repeated, "completion_ids": completions, "logprobs": None}


def encode(trainer: Any, prompts: list[Any]) -> Any:
    """Prompts as the trainer's chat template and processor give them, padded on the left, on its device."""
    processor = trainer.processing_class
    padded = {"padding": True, "padding_side": "left", "return_tensors": "pt"}
    if isinstance(prompts[0], str):
        inputs = processor(text=prompts, **padded)
    else:
        inputs = processor.apply_chat_template(
            conversation=prompts,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            processor_kwargs=padded,
            **trainer.chat_template_kwargs,
        )
    return inputs.to(trainer.accelerator.device)


def _key(prompt: Any) -> Any:
    """Equal for prompts of the same text and the same pictures, pixel by pixel."""
    return prompt if isinstance(prompt, str) else tuple(_parts(prompt))


def _parts(prompt: list[dict[str, Any]]) -> Iterable[Any]:
    for message in prompt:
        yield message["role"]
        content = message["content"]
        for part in [content] if isinstance(content, str) else content:
            for value in [part] if isinstance(part, str) else part.values():
                yield (value.size, value.convert("RGBA").tobytes()) if isinstance(value, Image.Image) else value
