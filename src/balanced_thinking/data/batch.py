"""The batch that a collator delivers: the one place where its keys and axes are listed."""

from typing import Any, Required, TypedDict

from jaxtyping import Int
from torch import Tensor

IGNORED = -100
TARGET_KEYS = ("shift_labels", "shift_segment_ids")


class Batch(TypedDict, total=False):
    """What the trainer receives. Everything but the target keys goes to the model as it is.

    Position t of the target keys tells of token t + 1: they are shifted once, in ``collate``, and are integers, since
    DeepSpeed casts floating point inputs to bf16. There is no ``labels`` key (which Trainer and model would shift or
    count again), except for ``loss_type="dft"``, which is TRL's own computation.

    Attributes:
        shift_labels: The token to predict; -100 where it is not part of a response.
        shift_segment_ids: Its segment, 1, 2, ... in the order of the specs; 0 = none.
        pixel_values: And whatever else the family's processor returns (``image_grid_thw``, ``token_type_ids``, ...).
    """

    input_ids: Required[Int[Tensor, "batch seq"]]
    attention_mask: Required[Int[Tensor, "batch seq"]]
    shift_labels: Required[Int[Tensor, "batch seq"]]
    shift_segment_ids: Required[Int[Tensor, "batch seq"]]
    labels: Int[Tensor, "batch seq"]
    pixel_values: Any
