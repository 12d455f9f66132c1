"""Greedy responses of any transformers vision-language model, in batches whose finished rows leave.

Greedy means the largest logit, without penalties or temperature, whatever the model's ``generation_config`` says; one
cap holds for all. Everything that depends on the family (positions, token types, cache) is prepared by transformers'
``generate``; its ``custom_generate`` hook hands the decode loop to ``decoding``. Prompts are tokenised as the chat
template gives them and padded on the left.

What it leaves out: sampling (``training.rollouts``), what a response says (``core.answers``), vLLM
(``evaluation.vllm_backend``).
"""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import GenerationConfig

from balanced_thinking.core.answers import inner_spans
from balanced_thinking.core.segments import THINK_ANSWER, SegmentSpec, tags_of
from balanced_thinking.data.families import refuse_own_marks, refuse_sizes
from balanced_thinking.data.images import image_size, open_image
from balanced_thinking.data.templates import (
    adds_special_tokens,
    end_of_turn_ids,
    prefilled,
    render_prompt,
    tokenizer_of,
)
from balanced_thinking.errors import EvaluationError
from balanced_thinking.evaluation.decoding import decode, until_end
from balanced_thinking.models.devices import autocast, is_out_of_memory

# Batches among which prompts are sorted by length: enough to save padding, few enough to show results as they come.
_WINDOW = 16
_LARGEST_BATCH = 256


@dataclass(frozen=True, slots=True)
class Prompt:
    """What one question asks: chat messages, and the pictures (paths, bytes or PIL) that they name in order."""

    id: str
    messages: list[dict[str, Any]]
    images: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Response:
    """What the model wrote.

    Attributes:
        text: The text without special tokens, tags kept even if they are special tokens.
        token_ids: Ids up to the end-of-turn token, which is left out.
        truncated: Whether the cap was reached without an end of turn.
        think_tokens: Tokens inside the think tags, tags excluded; None without ``<think>``.
        answer_tokens: Tokens inside the answer tags; None without ``<answer>``.
        prefix: What the chat template had already written of the response, such as ``<think>``.
    """

    text: str
    token_ids: list[int]
    truncated: bool
    think_tokens: int | None
    answer_tokens: int | None
    prefix: str = ""


@dataclass(slots=True)
class GenerationStats:
    """What generation cost: tokens read and written, batches lost to memory and the seconds lost with them."""

    prompt_tokens: int = 0
    new_tokens: int = 0
    lost_batches: int = 0
    lost_seconds: float = 0.0
    batch_size: int = 0


@dataclass(slots=True)
class Generator:
    """A model with its processor, ready to answer prompts.

    Args:
        model: A transformers model with ``generate``, on its device.
        processor: Its processor, with a chat template.
        max_new_tokens: Cap on the response, the same for every prompt.
        batch_size: Prompts at once; None chooses by the model's size. Halved when memory runs out, and stays so.
        bf16: Autocast to bf16; None: where ``models.devices`` finds that it pays.
        notify: Called with one line when a batch is lost to memory.
        segments: What the model was trained to write.
        template: Options of the chat template itself.
    """

    model: Any
    processor: Any
    max_new_tokens: int
    batch_size: int | None = None
    bf16: bool | None = None
    notify: Callable[[str], None] = print
    stats: GenerationStats = field(default_factory=GenerationStats)
    segments: Sequence[SegmentSpec] = THINK_ANSWER
    template: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise EvaluationError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if self.batch_size is not None and self.batch_size < 1:
            raise EvaluationError(f"batch_size must be at least 1, got {self.batch_size}")
        self.stats.batch_size = self.batch_size or default_batch_size(self.model)

    def batches(self, prompts: Sequence[Prompt]) -> Iterator[list[tuple[int, Response]]]:
        """One list of (index of the prompt, its response) per batch; within a window the longest prompts come first.

        Raises:
            EvaluationError: memory does not suffice for a single prompt.
            DataError: a picture cannot be read, or a prompt spells a picture's token itself.
        """
        render_prompts(self.processor, prompts, **self.template)  # before the first answer, not after hours of them
        window = _WINDOW * self.stats.batch_size
        for first in range(0, len(prompts), window):
            indices = range(first, min(first + window, len(prompts)))
            sizes = {i: _prompt_size(prompts[i]) for i in indices}
            pending = sorted(indices, key=lambda i: sizes[i], reverse=True)
            while pending:
                with_pictures = sizes[pending[0]][0]
                batch = [i for i in pending[: self.stats.batch_size] if sizes[i][0] == with_pictures]
                answered = self._attempt([prompts[i] for i in batch])
                if answered is None:
                    continue
                pending = pending[len(batch) :]
                yield list(zip(batch, answered, strict=True))

    def _attempt(self, prompts: list[Prompt]) -> list[Response] | None:
        """Responses of one batch, or None when memory ran out and the batch size was lowered."""
        start = time.perf_counter()
        try:
            return self._answer(prompts)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).strip().split("\n")[0] or type(error).__name__
        # Outside the handler, where the traceback no longer keeps the batch's tensors alive.
        gc.collect()
        if torch.accelerator.is_available():
            torch.accelerator.empty_cache()
        self.stats.lost_batches += 1
        self.stats.lost_seconds += time.perf_counter() - start
        if len(prompts) == 1:
            raise EvaluationError(
                f"question {prompts[0].id}: memory does not suffice for a single question ({reason}); lower "
                "max_new_tokens, use smaller pictures, or a device with more memory"
            )
        self.stats.batch_size = max(1, min(self.stats.batch_size, len(prompts)) // 2)
        self.notify(
            f"out of memory with {len(prompts)} questions at once; goes on with {self.stats.batch_size} "
            f"({self.stats.lost_seconds:.0f} s lost so far)"
        )
        return None

    def _answer(self, prompts: list[Prompt]) -> list[Response]:
        texts = [render_prompt(self.processor, prompt.messages, **self.template) for prompt in prompts]
        inputs = self._encode(prompts, texts)
        rows = self._generate(inputs)
        self.stats.prompt_tokens += int(inputs["attention_mask"].sum())
        self.stats.new_tokens += sum(len(ids) for ids, _ in rows)
        prefixes = prefixes_of(self.processor, prompts, texts=texts, segments=self.segments, **self.template)
        read = ResponseReader(self.processor, self.segments)
        return [read(*row, prefix=prefix) for row, prefix in zip(rows, prefixes, strict=True)]

    def _encode(self, prompts: list[Prompt], texts: list[str]) -> Any:
        options: dict[str, Any] = {
            "padding": True,
            "padding_side": "left",
            "return_tensors": "pt",
            "add_special_tokens": adds_special_tokens(tokenizer_of(self.processor), texts[0]),
        }
        if prompts[0].images:
            options["images"] = [[open_image(image, record=prompt.id) for image in prompt.images] for prompt in prompts]
        return self.processor(text=texts, **options).to(self.model.device, self.model.dtype)

    @torch.no_grad()
    def _generate(self, inputs: Any) -> list[tuple[list[int], bool]]:
        """Ids of each response without the end of turn, and whether it was cut at the cap."""
        tokenizer, model = tokenizer_of(self.processor), self.model
        ends = sorted(end_of_turn_ids(tokenizer, model.generation_config))
        config = greedy_config(self.max_new_tokens, ends, tokenizer.pad_token_id)
        training = model.training
        model.eval()
        try:
            with self._precision():
                tokens = model.generate(**inputs, generation_config=config, custom_generate=decode)
        finally:
            model.train(training)
        return until_end(tokens, ends)

    def _precision(self) -> Any:
        if self.bf16 is None:
            return autocast(self.model.device)
        return torch.autocast(self.model.device.type, dtype=torch.bfloat16) if self.bf16 else nullcontext()


def default_batch_size(model: Any) -> int:
    """A power of two from 8 to 256 that shrinks with the model: 256 up to 4 M parameters, 8 from 128 M on."""
    size = _LARGEST_BATCH
    while size > 8 and size * model.num_parameters() > 1.1e9:
        size //= 2
    return size


def greedy_config(max_new_tokens: int, end_ids: Sequence[int], pad_id: int | None) -> GenerationConfig:
    """Plain greedy decoding: what the model folder says about sampling and penalties is overridden."""
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=list(end_ids),
        pad_token_id=pad_id if pad_id is not None else end_ids[0],
        use_cache=True,
        return_dict_in_generate=False,
    )


def render_prompts(processor: Any, prompts: Sequence[Prompt], **template: Any) -> list[str]:
    """The text of each prompt as the model reads it, one mark per picture; ``template``: as ``render_prompt``.

    Raises:
        ConfigError: the chat template is missing or refuses the prompt.
        DataError: a prompt spells a picture's token itself, or the processor refuses a picture of that shape.
    """
    texts = [render_prompt(processor, prompt.messages, **template) for prompt in prompts]
    for prompt, text in zip(prompts, texts, strict=True):
        refuse_own_marks(processor, text, pictures=len(prompt.images), record=prompt.id)
        sizes = [image_size(image, record=prompt.id) for image in prompt.images]
        refuse_sizes(processor, sizes, record=prompt.id)
    return texts


def prefixes_of(
    processor: Any, prompts: Sequence[Prompt], *, texts: Sequence[str], segments: Sequence[SegmentSpec], **template: Any
) -> list[str]:
    """What each generation prompt (``texts``, as ``render_prompts`` gives them) writes of the response itself."""
    return [
        prefilled(processor, prompt.messages, prompt=text, segments=segments, **template)
        for prompt, text in zip(prompts, texts, strict=True)
    ]


class ResponseReader:
    """Text and lengths of responses from their ids, for one processor.

    Special tokens are hidden, but not the tags, which some tokenizers hold as special tokens.
    """

    def __init__(self, processor: Any, segments: Sequence[SegmentSpec] = THINK_ANSWER) -> None:
        self.segments = segments
        self.tokenizer = tokenizer_of(processor)
        special = {token for token, content in self.tokenizer.added_tokens_decoder.items() if content.special}
        tags = {self.tokenizer.convert_tokens_to_ids(tag) for tag in tags_of(segments)}
        self._hidden = (special | set(self.tokenizer.all_special_ids)) - tags

    def __call__(self, token_ids: list[int], truncated: bool, *, prefix: str = "") -> Response:
        """The response of ids that end before the end-of-turn token, written behind ``prefix``."""
        shown = [token for token in token_ids if token not in self._hidden]

        def decode(count: int) -> str:
            return self.tokenizer.decode(shown[:count], skip_special_tokens=False, clean_up_tokenization_spaces=False)

        text = decode(len(shown))
        lengths: dict[str, int] = {}
        for name, (start, end) in inner_spans(prefix + text, self.segments).items():
            first, last = (_tokens_before(decode, text, at - len(prefix), len(shown)) for at in (start, end))
            lengths[name] = last - first
        return Response(text, token_ids, truncated, lengths.get("think"), lengths.get("answer"), prefix)


def _tokens_before(decode: Callable[[int], str], text: str, position: int, count: int) -> int:
    """Tokens that start before character ``position``, by bisection: no tokenizer gives offsets of generated ids."""
    if position <= 0:
        return 0
    if position >= len(text):
        return count
    wanted, low, high = text[:position], 0, count
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if decode(middle).startswith(wanted) else (middle + 1, high)
    return low


def _prompt_size(prompt: Prompt) -> tuple[bool, int, int]:
    """What a prompt's length grows with: pictures or none, their area, the characters of its text."""
    areas = [width * height for width, height in (image_size(image, record=prompt.id) for image in prompt.images)]
    characters = sum(len(str(message["content"])) for message in prompt.messages)
    return (bool(areas), sum(areas), characters)
