"""Trainers for tests, small and exact: fp32, SGD, no checkpoints unless asked for."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from balanced_thinking.training.sft import ScaleSFTTrainer
from balanced_thinking.training.sft_config import ScaleSFTConfig

EXACT = {
    "bf16": False,
    "optim": "sgd",
    "learning_rate": 0.1,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "logging_steps": 1,
    "save_strategy": "no",
    "disable_tqdm": True,
    "report_to": "none",
    "seed": 3,
}


def config(folder: Path, **changes: Any) -> ScaleSFTConfig:
    return ScaleSFTConfig(str(folder), **{**EXACT, **changes})


def load(folder: Path, *, newline_after_turn: bool = True):
    """Model and processor; without the newline that Qwen's template writes behind the end-of-turn token if wanted."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(folder)
    if not newline_after_turn:
        template = processor.chat_template.replace(
            "<|im_end|>\\n{% endfor %}",
            "<|im_end|>{% if not loop.last or add_generation_prompt %}{{ '\\n' }}{% endif %}{% endfor %}",
        ).replace(
            "<|im_end|>\n{% endfor %}",
            "<|im_end|>{% if not loop.last or add_generation_prompt %}\n{% endif %}{% endfor %}",
        )
        assert template != processor.chat_template
        processor.chat_template = template
    return model, processor


def train(folder: Path, rows: Any, output: Path, *, newline_after_turn: bool = True, **changes: Any) -> ScaleSFTTrainer:
    model, processor = load(folder, newline_after_turn=newline_after_turn)
    trainer = ScaleSFTTrainer(model, config(output, **changes), train_dataset=rows, processing_class=processor)
    trainer.train()
    return trainer


def losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def flat(model: Any) -> torch.Tensor:
    return torch.cat([parameter.detach().double().flatten() for parameter in model.parameters()])


def drift(a: Any, b: Any, start: Any) -> float:
    """Norm of the difference of two trained models over the norm of the step that the first took."""
    return float((flat(a) - flat(b)).norm() / (flat(a) - flat(start)).norm())
