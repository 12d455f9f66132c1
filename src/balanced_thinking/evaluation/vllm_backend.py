"""Greedy responses through vLLM: the same prompts, cap and parser as ``evaluation.generation``, another engine.

Written against vLLM's documented ``LLM.generate`` with multi-modal prompts; we had no GPU, so we have not run it. What
it leaves out: servers and several nodes (``backend_options`` go to ``vllm.LLM`` as they are).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from balanced_thinking.core.segments import THINK_ANSWER, SegmentSpec
from balanced_thinking.data.rowcheck import open_image
from balanced_thinking.data.templates import end_of_turn_ids, tokenizer_of
from balanced_thinking.errors import EvaluationError
from balanced_thinking.evaluation.generation import (
    GenerationStats,
    Prompt,
    Response,
    ResponseReader,
    prefilled,
    render_prompts,
)


@dataclass(slots=True)
class VllmGenerator:
    """As ``generation.Generator``, for a folder or hub id that vLLM serves.

    Raises:
        EvaluationError: vLLM is not installed.
    """

    model: str
    max_new_tokens: int
    batch_size: int | None = None
    backend_options: dict[str, Any] = field(default_factory=dict)
    stats: GenerationStats = field(default_factory=GenerationStats)
    segments: Sequence[SegmentSpec] = THINK_ANSWER

    def batches(self, prompts: Sequence[Prompt]) -> Iterator[list[tuple[int, Response]]]:
        """As ``Generator.batches``, in order; vLLM batches by itself within chunks of ``batch_size``."""
        vllm = _import_vllm()
        from transformers import AutoProcessor, GenerationConfig

        processor = AutoProcessor.from_pretrained(self.model)
        most = max((len(prompt.images) for prompt in prompts), default=0)
        limits: dict[str, Any] = {"limit_mm_per_prompt": {"image": most}} if most else {}
        if getattr(getattr(processor, "image_processor", None), "do_pan_and_scan", None):
            limits["mm_processor_kwargs"] = {"do_pan_and_scan": True}  # see data.families.keep_saved_settings
        engine = vllm.LLM(model=self.model, **limits, **self.backend_options)
        try:
            stops = GenerationConfig.from_pretrained(self.model)
        except OSError:  # a folder without generation_config.json: the tokenizer's end of turn is enough
            stops = None
        ends = end_of_turn_ids(tokenizer_of(processor), stops)
        sampling = vllm.SamplingParams(
            temperature=0.0, max_tokens=self.max_new_tokens, stop_token_ids=sorted(ends), skip_special_tokens=False
        )
        reader = ResponseReader(processor, self.segments)
        rendered = render_prompts(processor, prompts)
        self.stats.batch_size = self.batch_size or 512
        for first in range(0, len(prompts), self.stats.batch_size):
            chunk = prompts[first : first + self.stats.batch_size]
            texts = rendered[first : first + self.stats.batch_size]
            requests = [_request(prompt, text) for prompt, text in zip(chunk, texts, strict=True)]
            outputs = engine.generate(requests, sampling)
            told = zip(chunk, texts, strict=True)
            prefixes = [prefilled(processor, p.messages, text, self.segments) for p, text in told]
            answered = [self._read(reader, *pair, ends) for pair in zip(outputs, prefixes, strict=True)]
            yield list(enumerate(answered, start=first))

    def _read(self, reader: ResponseReader, output: Any, prefix: str, ends: frozenset[int]) -> Response:
        completion = output.outputs[0]
        ids = [int(token) for token in completion.token_ids]
        stop = next((i for i, token in enumerate(ids) if token in ends), len(ids))
        self.stats.prompt_tokens += len(output.prompt_token_ids)
        self.stats.new_tokens += stop
        return reader(ids[:stop], completion.finish_reason == "length", prefix=prefix)


def _request(prompt: Prompt, text: str) -> dict[str, Any]:
    request: dict[str, Any] = {"prompt": text}
    if prompt.images:
        request["multi_modal_data"] = {"image": [open_image(image, record=prompt.id) for image in prompt.images]}
    return request


def _import_vllm() -> Any:
    try:
        import vllm
    except ImportError as error:
        raise EvaluationError(
            "backend 'vllm' needs vLLM, which is not installed; run pip install 'balanced-thinking[vllm]' on a machine "
            "with a GPU, or use backend 'transformers'"
        ) from error
    return vllm
