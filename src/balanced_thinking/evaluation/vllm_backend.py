"""Greedy responses through vLLM: the same prompts, cap and parser as ``evaluation.generation``, another engine.

Written against vLLM's documented ``LLM.generate`` with multi-modal prompts; we had no GPU, so we have not run it. What
it leaves out: servers and several nodes (options go to ``vllm.LLM`` as they are).
"""

import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from balanced_thinking.core.segments import THINK_ANSWER, SegmentSpec
from balanced_thinking.data.families import sees_crops
from balanced_thinking.data.images import open_image
from balanced_thinking.data.templates import adds_special_tokens, end_of_turn_ids, tokenizer_of
from balanced_thinking.errors import EvaluationError
from balanced_thinking.evaluation.generation import (
    GenerationStats,
    Prompt,
    Response,
    ResponseReader,
    prefixes_of,
    render_prompts,
)
from balanced_thinking.models.modeling import load_processor


class VllmEngine:
    """A folder or hub id that vLLM serves, loaded once for all that ask it; ``options`` are those of ``vllm.LLM``."""

    def __init__(self, model: str, options: Mapping[str, Any] | None = None) -> None:
        self.model, self.options = model, dict(options or {})
        self._served: Any = None
        self._pictures = 0

    @cached_property
    def processor(self) -> Any:
        """The model's processor, by which prompts are written and answers read."""
        return load_processor(self.model)

    @cached_property
    def ends(self) -> frozenset[int]:
        """Ids at which a response ends."""
        from transformers import GenerationConfig

        try:
            stops = GenerationConfig.from_pretrained(self.model)
        except OSError:  # a folder without generation_config.json: the tokenizer's end of turn is enough
            stops = None
        return end_of_turn_ids(tokenizer_of(self.processor), stops)

    def served(self, pictures: int) -> Any:
        """The ``vllm.LLM`` for prompts of at most so many pictures; made again only where that is more than before.

        Raises:
            EvaluationError: vLLM is not installed, or refuses model or options.
        """
        if self._served is None or pictures > self._pictures:
            self._served = None  # what it holds of the accelerator is needed by its successor
            gc.collect()
            self._served, self._pictures = self._load(pictures), pictures
        return self._served

    def _load(self, pictures: int) -> Any:
        vllm = _import_vllm()
        limits: dict[str, Any] = {"limit_mm_per_prompt": {"image": pictures}} if pictures else {}
        if sees_crops(self.processor):
            limits["mm_processor_kwargs"] = {"do_pan_and_scan": True}  # see data.families.keep_saved_settings
        try:
            return vllm.LLM(model=self.model, **(limits | self.options))
        except (TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise EvaluationError(
                f"vLLM does not load {self.model} with {self.options or 'its defaults'} ({reason}); change "
                "backend_options, or use backend 'transformers'"
            ) from error


@dataclass(slots=True)
class VllmGenerator:
    """As ``generation.Generator``, of an engine that vLLM serves."""

    engine: VllmEngine
    max_new_tokens: int
    batch_size: int | None = None
    stats: GenerationStats = field(default_factory=GenerationStats)
    segments: Sequence[SegmentSpec] = THINK_ANSWER
    template: Mapping[str, Any] = field(default_factory=dict)

    def batches(self, prompts: Sequence[Prompt]) -> Iterator[list[tuple[int, Response]]]:
        """As ``Generator.batches``, in order; vLLM batches by itself within chunks of ``batch_size``.

        Raises:
            EvaluationError: vLLM is not installed, or refuses model or options.
        """
        vllm, processor = _import_vllm(), self.engine.processor
        rendered = render_prompts(processor, prompts, **self.template)
        served = self.engine.served(max((len(prompt.images) for prompt in prompts), default=0))
        sampling = vllm.SamplingParams(
            temperature=0.0,
            max_tokens=self.max_new_tokens,
            stop_token_ids=sorted(self.engine.ends),
            skip_special_tokens=False,
        )
        reader = ResponseReader(processor, self.segments)
        self.stats.batch_size = self.batch_size or 512
        for first in range(0, len(prompts), self.stats.batch_size):
            chunk = prompts[first : first + self.stats.batch_size]
            texts = rendered[first : first + self.stats.batch_size]
            requests = [_request(prompt, text) for prompt, text in zip(chunk, texts, strict=True)]
            # A text is tokenised as a raw prompt, so that a bos token of the template would be the second.
            special = adds_special_tokens(tokenizer_of(processor), texts[0])
            outputs = _generated(served, requests, sampling, special)
            prefixes = prefixes_of(processor, chunk, texts=texts, segments=self.segments, **self.template)
            answered = [self._read(reader, *pair) for pair in zip(outputs, prefixes, strict=True)]
            yield list(enumerate(answered, start=first))

    def _read(self, reader: ResponseReader, output: Any, prefix: str) -> Response:
        completion = output.outputs[0]
        ids = [int(token) for token in completion.token_ids]
        stop = next((i for i, token in enumerate(ids) if token in self.engine.ends), len(ids))
        self.stats.prompt_tokens += len(output.prompt_token_ids)
        self.stats.new_tokens += stop
        return reader(ids[:stop], completion.finish_reason == "length", prefix=prefix)


def _request(prompt: Prompt, text: str) -> dict[str, Any]:
    request: dict[str, Any] = {"prompt": text}
    if prompt.images:
        request["multi_modal_data"] = {"image": [open_image(image, record=prompt.id) for image in prompt.images]}
    return request


def _generated(served: Any, requests: list[dict[str, Any]], sampling: Any, special: bool) -> Any:
    try:
        return served.generate(requests, sampling, tokenization_kwargs={"add_special_tokens": special})
    except (TypeError, ValueError) as error:  # a prompt longer than max_model_len, say
        reason = " ".join(str(error).split())
        raise EvaluationError(f"vLLM refuses a prompt ({reason}); change backend_options") from error


def _import_vllm() -> Any:
    try:
        import vllm
    except ImportError as error:
        raise EvaluationError(
            "backend 'vllm' needs vLLM, which is not installed; run pip install 'balanced-thinking[vllm]' on a machine "
            "with a GPU, or use backend 'transformers'"
        ) from error
    return vllm
