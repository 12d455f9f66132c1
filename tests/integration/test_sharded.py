"""A model cut over two processes (FSDP2, on the CPU) through the real command: saved whole, and not trained on.

accelerate cuts models on accelerators only; the launcher below lets it take two CPU processes for two of them. What it
leaves out: DeepSpeed, which is not installed with the tests.
"""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from test_resume import logged_steps, write_data

from balanced_thinking.models.modeling import load_model

LAUNCHER = """
import sys
import accelerate.state as state
original = state.PartialState.__init__
def init(self, *args, **kwargs):
    original(self, *args, **kwargs)
    if self._shared_state.get("distributed_type") == state.DistributedType.MULTI_CPU:
        self._shared_state["distributed_type"] = state.DistributedType.MULTI_GPU
state.PartialState.__init__ = init
from balanced_thinking.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_USE_CPU": "true",
    "FSDP_VERSION": "2",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}


def run(folder, model, *more):
    (folder / "launcher.py").write_text(LAUNCHER)
    data = folder / "data" / "train.jsonl"
    data = data if data.exists() else write_data(folder / "data", count=16)
    settings = {
        "model_name_or_path": model, "dataset": data, "output_dir": folder / "run", "max_steps": 2, "save_steps": 1,
        "per_device_train_batch_size": 2, "bf16": "false", "report_to": "none", "logging_steps": 1,
        "learning_rate": 1e-2,
    }  # fmt: skip
    arguments = [text for key, value in settings.items() for text in (f"--{key}", str(value))]
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(folder / "launcher.py")]
    environment = {**os.environ, **FSDP2, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, *command, "sft", *arguments, *more],
        capture_output=True, text=True, env=environment, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    assert json.loads((folder / "run" / "run.json").read_text())["finished"]
    load_model(folder / "run")
    return load_file(folder / "run" / "model.safetensors")


@pytest.mark.long
def test_a_cut_model_is_saved_whole_and_not_trained_beyond_its_end(tiny_folder, tmp_path):
    """FSDP2 shards its state by default: the run said finished and held no weights."""
    whole, start = run(tmp_path, tiny_folder), load_file(tiny_folder / "model.safetensors")
    assert all(not torch.equal(whole[name], start[name]) for name in start)
    folder = tmp_path / "run"
    told = json.loads((folder / "run.json").read_text())
    assert told["config"]["processes"] == 2
    # Killed behind its last checkpoint, it trained one step more.
    (folder / "model.safetensors").unlink()
    (folder / "run.json").write_text(json.dumps({**told, "finished": False}))
    again = run(tmp_path, tiny_folder)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert logged_steps(folder) == [1, 2]


@pytest.mark.long
def test_an_adapter_on_a_cut_model_is_merged(tiny_folder, tmp_path):
    """Merging cut parameters on one rank waited forever."""
    merged = run(tmp_path, tiny_folder, "--use_peft", "true", "--lora_r", "2", "--lora_target_modules", "q_proj")
    start = load_file(tiny_folder / "model.safetensors")
    moved = {name for name in start if not torch.equal(merged[name], start[name])}
    assert moved
    assert all("q_proj" in name for name in moved)
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
