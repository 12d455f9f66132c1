"""``models.checkpoints``: which checkpoints count, and starts that lack a tensor."""

import shutil
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.integrations import deepspeed

from balanced_thinking.errors import CheckpointError
from balanced_thinking.models import checkpoints
from balanced_thinking.models.checkpoints import check_start, checkpoint_fault, load_whole
from tiny import tiny_qwen2_5_vl


@pytest.fixture
def checkpoint(tmp_path):
    (tmp_path / "trainer_state.json").write_text('{"global_step": 1}')
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.save({}, tmp_path / name)
    for name in ("rng_state.pth", "rng_state_0.pth", "rng_state_1.pth"):
        torch.save({"numpy": np.random.get_state(), "cpu": torch.random.get_rng_state()}, tmp_path / name)
    return tmp_path


@pytest.fixture
def processes(monkeypatch):
    return lambda number: monkeypatch.setattr(
        checkpoints, "PartialState", lambda: SimpleNamespace(num_processes=number)
    )


def test_a_torn_random_state_is_noticed(checkpoint):
    assert checkpoint_fault(checkpoint) is None
    file = checkpoint / "rng_state.pth"
    file.write_bytes(file.read_bytes()[:200])
    assert "rng_state.pth is damaged" in checkpoint_fault(checkpoint)


def test_each_process_needs_its_random_state(checkpoint, processes):
    """One of two was missing, and the run went on with other numbers."""
    processes(2)
    assert checkpoint_fault(checkpoint) is None
    (checkpoint / "rng_state_1.pth").unlink()
    assert checkpoint_fault(checkpoint) == "no rng_state_1.pth, the random state of one of 2 processes"
    (checkpoint / "pytorch_model_fsdp_0").mkdir()  # FSDP's own format
    assert "no rng_state_1.pth" in checkpoint_fault(checkpoint)
    processes(1)
    (checkpoint / "rng_state.pth").unlink()
    assert "no rng_state.pth" in checkpoint_fault(checkpoint)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tiny_qwen2_5_vl(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def broken(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "broken")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.0.self_attn.q_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


ARGS = SimpleNamespace(model_init_kwargs=None, trust_remote_code=False)


def test_a_start_that_lacks_a_tensor_is_refused(whole, broken):
    """TRL loads it with random numbers in the place of what is missing."""
    check_start(str(whole), ARGS)
    check_start(object(), ARGS)  # loaded already
    with pytest.raises(CheckpointError, match=r"lack 1 tensors .*layers\.0\.self_attn\.q_proj\.weight"):
        check_start(str(broken), ARGS)


def test_looking_at_a_start_changes_no_random_number(whole):
    before = torch.random.get_rng_state()
    check_start(str(whole), ARGS)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_torn_weight_file_is_one_line(broken):
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=f"cannot load the model {broken}"):
        check_start(str(broken), ARGS)


def test_one_rank_loads_a_whole_model_under_zero3(whole):
    """transformers would cut it over all ranks, of which only one is here."""

    class Zero3:
        config: ClassVar[dict] = {}

        def is_zero3(self):
            return True

    config = Zero3()
    deepspeed.set_hf_deepspeed_config(config)
    try:
        assert all(parameter.numel() for parameter in load_whole(whole, dtype="float32").parameters())
        assert deepspeed.is_deepspeed_zero3_enabled()
    finally:
        deepspeed.unset_hf_deepspeed_config()
