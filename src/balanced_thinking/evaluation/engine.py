"""A model to be evaluated: told from others without loading it, and loaded at most once for all benchmarks.

What it leaves out: how prompts are answered (``generation``, ``vllm_backend``). Torch-free until a model is loaded.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from os import fspath
from typing import Any

from balanced_thinking.core.segments import SegmentSpec
from balanced_thinking.errors import EvaluationError
from balanced_thinking.evaluation.identity import Model, model_identity, rendering_identity

BACKENDS = ("transformers", "vllm")
DTYPES = ("auto", "float32", "bfloat16", "float16")
# Where and how fast vLLM computes; the rest may change what it computes.
_PLACEMENT = ("tensor_parallel_size", "pipeline_parallel_size", "gpu_memory_utilization", "max_num_seqs")


def check_running(backend: str, dtype: str, options: Mapping[str, Any]) -> None:
    """Whether a backend is known and takes the options.

    Raises:
        EvaluationError: it is not, or does not.
    """
    for name, value, known in (("backend", backend, BACKENDS), ("dtype", dtype, DTYPES)):
        if value not in known:
            raise EvaluationError(f"unknown {name} {value!r}; use one of {', '.join(known)}")
    if options and backend != "vllm":
        raise EvaluationError("backend_options are for backend 'vllm'; leave them out, or choose it")
    if "model" in options:
        raise EvaluationError("backend_options must not name a model, which is given by itself; leave it out")


class Engine:
    """A model with the way in which it is run.

    Args:
        model: A model folder, a hub id, or a loaded (model, processor).
        backend: ``transformers`` or ``vllm``.
        dtype: Of the weights; ``auto``: as saved, but float32 on the CPU (vLLM: its own choice).
        options: For vLLM: arguments of ``vllm.LLM`` (``backend_options`` to users).

    Raises:
        EvaluationError: an unknown backend or dtype, or options that the backend does not take.
    """

    def __init__(
        self,
        model: Model,
        backend: str = "transformers",
        *,
        dtype: str = "auto",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        options = dict(options or {})
        check_running(backend, dtype, options)
        if isinstance(model, tuple) and backend == "vllm":
            raise EvaluationError("backend 'vllm' loads the model itself; give a folder or hub id, not a loaded model")
        if isinstance(model, tuple) and dtype != "auto":
            raise EvaluationError("dtype is for a model that is still to be loaded; leave it out")
        self.model, self.backend, self.dtype, self.options = model, backend, dtype, options

    @property
    def label(self) -> str:
        """The model's name in results."""
        return str(getattr(self.model[0], "name_or_path", "")) if isinstance(self.model, tuple) else fspath(self.model)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What tells this engine's answers from those of another; None for what is off."""
        computed = {key: value for key, value in self.options.items() if key not in _PLACEMENT}
        return {
            "model": model_identity(self.model),
            "rendering": rendering_identity(self.model),
            "backend": self.backend,
            "dtype": None if self.dtype == "auto" else self.dtype,
            "backend_options": computed or None,
        }

    def generator(
        self,
        max_new_tokens: int,
        *,
        batch_size: int | None,
        say: Callable[[str], None],
        segments: Sequence[SegmentSpec],
        template: Mapping[str, Any],
    ) -> Any:
        """What answers prompts (``Generator`` or ``VllmGenerator``); the model is loaded on the first call.

        Raises:
            CheckpointError: the model cannot be loaded.
        """
        shared: dict[str, Any] = {"batch_size": batch_size, "segments": segments, "template": template}
        if self.backend == "vllm":
            from balanced_thinking.evaluation.vllm_backend import VllmGenerator

            return VllmGenerator(self._vllm, max_new_tokens, **shared)
        from balanced_thinking.evaluation.generation import Generator

        return Generator(*self._loaded, max_new_tokens, notify=say, **shared)

    @cached_property
    def _vllm(self) -> Any:
        from balanced_thinking.evaluation.vllm_backend import VllmEngine

        dtype = {} if self.dtype == "auto" else {"dtype": self.dtype}
        return VllmEngine(fspath(self.model), dtype | self.options)  # type: ignore[arg-type]

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from balanced_thinking.models.modeling import load_model

        if isinstance(self.model, tuple):
            return self.model
        return load_model(fspath(self.model), dtype=None if self.dtype == "auto" else self.dtype)
