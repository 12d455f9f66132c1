"""A model is told from others without loading it, loaded once, and in the precision that device and user ask for."""

import json

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from balanced_thinking.core.segments import THINK_ANSWER
from balanced_thinking.errors import CheckpointError, EvaluationError
from balanced_thinking.evaluation.engine import Engine
from balanced_thinking.models import modeling
from balanced_thinking.models.modeling import load_model
from tiny import tiny_qwen2_5_vl


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model saved as bfloat16."""
    folder = tiny_qwen2_5_vl(tmp_path_factory.mktemp("tiny"))
    processor = AutoProcessor.from_pretrained(folder)
    AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def generator(engine):
    return engine.generator(4, batch_size=1, say=print, segments=THINK_ANSWER, template={})


@pytest.mark.parametrize(
    ("device", "dtype", "expected"),
    [
        ("cpu", None, torch.float32),
        ("meta", None, torch.bfloat16),  # stands for any accelerator
        ("meta", "float32", torch.float32),
        ("cpu", "float16", torch.float16),
    ],
)
def test_precision_of_the_weights(folder, device, dtype, expected):
    """A model of 7 B parameters saved as bfloat16 once took 28 GB of a card."""
    assert load_model(folder, device=device, dtype=dtype)[0].dtype == expected


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_a_model_too_large_for_the_device_is_one_line(folder, monkeypatch, error):
    def full(self, *args, **kwargs):
        raise error

    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(CheckpointError, match=r"does not fit into the memory of cpu; load it as bfloat16") as caught:
        load_model(folder, device="cpu")
    assert "\n" not in str(caught.value)


def test_other_faults_of_loading_are_not_called_memory(folder, monkeypatch):
    def broken(self, *args, **kwargs):
        raise RuntimeError("no such device")

    monkeypatch.setattr(torch.nn.Module, "to", broken)
    with pytest.raises(RuntimeError, match="no such device"):
        load_model(folder, device="cpu")


def test_a_model_is_loaded_once_and_only_when_asked(folder, monkeypatch):
    loads = []
    monkeypatch.setattr(modeling, "load_model", lambda name, **how: loads.append(how) or load_model(name, **how))
    engine = Engine(folder, dtype="bfloat16")
    assert engine.identity["model"].startswith("weights ")
    assert loads == []
    assert generator(engine).model is generator(engine).model
    assert loads == [{"dtype": "bfloat16"}]


def test_what_only_places_a_model_does_not_tell_it_from_another(folder):
    plain = Engine(folder, "vllm").identity
    assert Engine(folder, "vllm", options={"gpu_memory_utilization": 0.8}).identity == plain
    assert Engine(folder, "vllm", options={"max_model_len": 512}).identity != plain
    assert Engine(folder, "vllm", dtype="float16").identity != plain
    json.dumps(plain)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "tpu"}, "unknown backend 'tpu'; use one of transformers, vllm"),
        ({"dtype": "int4"}, "unknown dtype 'int4'; use one of auto, float32"),
        ({"options": {"a": 1}}, "backend_options are for backend 'vllm'; leave them out"),
        ({"backend": "vllm", "options": {"model": "x"}}, "must not name a model"),
    ],
)
def test_bad_settings_are_one_line(folder, settings, message):
    with pytest.raises(EvaluationError, match=message):
        Engine(folder, **settings)


@pytest.mark.parametrize("settings", [{"backend": "vllm"}, {"dtype": "float16"}])
def test_a_loaded_model_stays_as_it_is(settings):
    with pytest.raises(EvaluationError, match="loaded"):
        Engine(("model", "processor"), **settings)
