"""The decode loop behind transformers' ``generate``: finished rows leave, the cache has room, copies share a prompt.

``generate`` prepares everything that depends on the family (positions, token types, cache) and hands the loop over by
its ``custom_generate`` hook. Greedy decoding takes the largest logit, whatever processors ``generate`` has built; where
``do_sample`` is set, they are applied (temperature, top-k, top-p, ...) and a token is drawn.
What it leaves out: prompts and responses (``generation``, ``training.rollouts``).
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

# Selecting rows copies the whole cache once, so it waits until this share of the rows has finished.
_LEAVE_SHARE = 0.1
_CACHE_ROOM = 64


def decode(
    model: Any,
    input_ids: Int[Tensor, "batch seq"],
    *,
    generation_config: Any,
    logits_processor: Any = None,
    stopping_criteria: Any = None,
    copies: int = 1,
    **model_inputs: Any,
) -> Int[Tensor, "rows new"]:
    """New tokens of ``copies`` responses to each prompt, those of one prompt together: rows = batch * copies.

    A prompt is read once, however many copies it has. A row is filled up with the pad token behind its end of turn.
    Which rows have ended decides when a row leaves, so ``stopping_criteria`` are not asked.
    """
    del stopping_criteria
    sample, count = bool(generation_config.do_sample), input_ids.shape[0] * copies
    cap = generation_config.max_length - input_ids.shape[1]
    device = input_ids.device
    ends = torch.tensor(generation_config.eos_token_id, device=device).reshape(-1)
    tokens = torch.full((count, cap), int(generation_config.pad_token_id), device=device)
    rows = torch.arange(count, device=device)
    alive = torch.ones_like(rows, dtype=torch.bool)
    _give_room(model_inputs.get("past_key_values"))
    step_inputs = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **model_inputs)
    for step in range(cap):
        outputs = model(**step_inputs, return_dict=True)
        logits = outputs.logits[:, -1].float()
        model_inputs = model._update_model_kwargs_for_generation(outputs, model_inputs)
        if step == 0 and copies > 1:
            shared = torch.arange(len(logits), device=device).repeat_interleave(copies)
            model_inputs = _select_rows(model_inputs, shared, len(logits))
            logits, input_ids = logits[shared], input_ids[shared]
        if sample:
            written = torch.cat([input_ids[rows], tokens[rows, :step]], dim=1)
            chosen = _draw(logits, written, logits_processor)
        else:
            chosen = logits.argmax(dim=-1)
        tokens[rows[alive], step] = chosen[alive]
        alive &= ~torch.isin(chosen, ends)
        living = int(alive.sum())
        if not living or step == cap - 1:
            return tokens[:, : step + 1]
        if len(rows) - living >= _LEAVE_SHARE * len(rows):
            kept = alive.nonzero().squeeze(1)
            model_inputs = _select_rows(model_inputs, kept, len(rows))
            rows, chosen, alive = rows[kept], chosen[kept], alive[kept]
        step_inputs = model.prepare_inputs_for_generation(chosen[:, None], next_sequence_length=1, **model_inputs)
    return tokens


def until_end(tokens: Int[Tensor, "rows new"], ends: Sequence[int]) -> list[tuple[list[int], bool]]:
    """Of each row, the ids before its end of turn, and whether the cap cut it off."""
    end_set, found = set(ends), []
    for ids in tokens.tolist():
        stop = next((i for i, token in enumerate(ids) if token in end_set), len(ids))
        found.append((ids[:stop], stop == len(ids)))
    return found


def _draw(
    logits: Float[Tensor, "rows vocab"], written: Int[Tensor, "rows seq"], processors: Any
) -> Int[Tensor, "rows"]:
    """One token a row from softmax(processed logits)."""
    scores = processors(written, logits) if processors else logits
    return torch.multinomial(scores.softmax(dim=-1), 1).squeeze(1)


def _select_rows(model_inputs: dict[str, Any], kept: Tensor, batch: int) -> dict[str, Any]:
    """The inputs of the rows that go on. Pictures have done their work in the first pass."""
    selected = {}
    for name, value in model_inputs.items():
        if name == "past_key_values":
            value.batch_select_indices(kept)
        elif isinstance(value, Tensor) and name == "position_ids":
            # (batch, seq), or (axes, batch, seq) where positions have several axes; a batch of one is shared by all.
            value = value.index_select(-2, kept) if value.shape[-2] == batch else value
        elif isinstance(value, Tensor) and name in ("attention_mask", "token_type_ids", "mm_token_type_ids"):
            value = value.index_select(0, kept)
        selected[name] = value
    return selected


def _give_room(cache: Any) -> None:
    """Replaces the plain layers of a dynamic cache; sliding windows and other kinds stay as they are."""
    if type(cache) is DynamicCache:
        cache.layers = [_RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]


class _RoomyLayer(DynamicLayer):
    """A cache layer that writes new tokens into a buffer with room, where the plain one copies all on every step."""

    keys: Tensor
    values: Tensor

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._key_room = self._value_room = key_states[:, :, :0]
        old = self.get_seq_length()
        new = old + key_states.shape[-2]
        if new > self._key_room.shape[-2]:
            self._key_room = self._grown(self.keys, key_states, new)
            self._value_room = self._grown(self.values, value_states, new)
        self._key_room[:, :, old:new] = key_states
        self._value_room[:, :, old:new] = value_states
        self.keys, self.values = self._key_room[:, :, :new], self._value_room[:, :, :new]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        if self.get_seq_length() > 0:
            self._key_room, self._value_room = self._key_room[indices], self._value_room[indices]
            length = self.get_seq_length()
            self.keys, self.values = self._key_room[:, :, :length], self._value_room[:, :, :length]

    @staticmethod
    def _grown(held: Tensor, states: Tensor, length: int) -> Tensor:
        room = states.new_empty((*states.shape[:2], length + _CACHE_ROOM, states.shape[-1]))
        if held.numel():
            room[:, :, : held.shape[-2]] = held
        return room
