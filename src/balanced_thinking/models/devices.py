"""Which device and which precision a run uses when the user does not say.

bf16 autocast pays on accelerators and on CPUs with bf16 instructions; on other CPUs it is emulated and far slower, so a
short probe decides there. What it leaves out: placement of large models over several devices (accelerate's work).
"""

import contextlib
import functools
import os
import time
from typing import Any

import torch


def default_device() -> torch.device:
    """The current accelerator if there is one, else the CPU; ``BALANCED_THINKING_DEVICE`` overrides."""
    wanted = os.environ.get("BALANCED_THINKING_DEVICE")
    if wanted:
        return torch.device(wanted)
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    return torch.device("cpu")


def bf16_pays(device: torch.device | None = None) -> bool:
    """Whether bf16 autocast is supported and quicker than fp32 on ``device`` (default: ``default_device()``).

    ``BALANCED_THINKING_BF16=0`` or ``1`` overrides, so that a run can be repeated exactly on another machine.
    """
    device = device or default_device()
    forced = os.environ.get("BALANCED_THINKING_BF16")
    if forced in ("0", "1"):
        return forced == "1"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type == "cpu":
        return cpu_bf16_pays()
    return device.type == "xpu"


def choose_device(args: Any) -> None:
    """Fill in what a user's ``TrainingArguments`` leave open: CPU or not, activation checkpointing, bf16.

    TRL turns bf16 on and then refuses a machine without an accelerator, and it checkpoints activations on a CPU too,
    where memory is not what is short. Call it before the arguments check themselves.
    """
    if not torch.accelerator.is_available():
        args.use_cpu = True
    if args.activation_checkpointing is None:
        wanted = args.gradient_checkpointing
        args.activation_checkpointing = not args.use_cpu if wanted is None else wanted
    if args.bf16 is None:
        args.bf16 = not args.fp16 and bf16_pays(torch.device("cpu") if args.use_cpu else None)


@functools.cache
def cpu_bf16_pays() -> bool:
    """Whether a bf16 matrix product beats the fp32 one on this CPU by a fifth or more (a probe of some 20 ms)."""
    times = {}
    for dtype in (torch.float32, torch.bfloat16):
        left, right = torch.ones(512, 256, dtype=dtype), torch.ones(256, 512, dtype=dtype)
        left @ right
        rounds = []
        for _ in range(3):
            start = time.perf_counter()
            for _ in range(4):
                left @ right
            rounds.append(time.perf_counter() - start)
        times[dtype] = min(rounds)
    return times[torch.bfloat16] < 0.8 * times[torch.float32]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on an accelerator or on the CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return any(sign in text for sign in ("out of memory", "not enough memory", "can't allocate memory"))


def autocast(device: torch.device) -> contextlib.AbstractContextManager:
    """bf16 autocast where ``bf16_pays``, else nothing."""
    if bf16_pays(device):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()
