"""A run that is killed and started again ends with the same weights, bit for bit; through the real command."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from balanced_thinking.cli.main import main
from balanced_thinking.data.records import to_trl_row
from balanced_thinking.errors import CheckpointError
from balanced_thinking.models.checkpoints import checkpoint_fault, last_checkpoint, load_weights
from balanced_thinking.training.sft import ScaleSFTTrainer
from tiny import tiny_examples
from trainers import config, flat, load, train

STEPS = 24
ADAM = {"optim": "adamw_torch", "learning_rate": 3e-3, "lr_scheduler_type": "cosine", "warmup_steps": 2}


def write_data(folder: Path, count: int = 40) -> Path:
    """A data set as users have it: one JSONL file in TRL's form with pictures beside it."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for example in tiny_examples(count):
        row = to_trl_row(example)
        picture = f"images/{example.id}.png"
        row["images"][0].save(folder / picture)
        lines.append(json.dumps({**row, "images": [picture]}))
    path = folder / "train.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def command(model: Path, data: Path, output: Path, **changes):
    settings = {
        "model_name_or_path": model,
        "dataset": data,
        "output_dir": output,
        "max_steps": STEPS,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "save_steps": 2,
        "save_total_limit": 2,
        "logging_steps": 1,
        "bf16": "false",
        "report_to": "none",
        "seed": 3,
        **ADAM,
        **changes,
    }
    arguments = [text for key, value in settings.items() for text in (f"--{key}", str(value))]
    return [sys.executable, "-m", "balanced_thinking.cli.main", "sft", *arguments]


def start(arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def finish(arguments) -> str:
    process = start(arguments)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text[-3000:]
    return text


def logged_steps(output: Path) -> list[int]:
    lines = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row["step"] for row in map(json.loads, lines) if "loss" in row]


@pytest.fixture(scope="module")
def unbroken(tiny_folder, tmp_path_factory):
    """(data, final weights, seconds of training) of a run that nobody kills."""
    folder = tmp_path_factory.mktemp("unbroken")
    data = write_data(folder / "data")
    finish(command(tiny_folder, data, folder / "run"))
    clock = json.loads((folder / "run" / "clock.json").read_text(encoding="utf-8"))
    assert logged_steps(folder / "run") == list(range(1, STEPS + 1))
    return data, load_file(folder / "run" / "model.safetensors"), clock["seconds"]


def kill_once(arguments, output: Path, seconds: float, *, on_write: bool) -> bool:
    """Start, kill at a moment of training (or while a checkpoint is being written); False if it had ended before."""
    process = start(arguments)
    deadline = time.time() + 240
    while not (output / "clock.json").exists() and process.poll() is None and time.time() < deadline:
        time.sleep(0.002)
    time.sleep(seconds)
    if on_write:
        before = {path.name for path in output.glob("checkpoint-*")}
        while process.poll() is None and not {path.name for path in output.glob("checkpoint-*")} - before:
            time.sleep(0.0005)
        time.sleep(random.random() * 0.02)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return alive


def check_kills(tiny_folder, unbroken, tmp_path, *, kills: int, seed: int):
    data, expected, seconds = unbroken
    dice = random.Random(seed)
    output = tmp_path / "run"
    arguments = command(tiny_folder, data, output)
    landed = 0
    for number in range(kills):
        if not output.exists() or not json.loads((output / "run.json").read_text()).get("finished"):
            landed += kill_once(arguments, output, dice.random() * seconds / 2, on_write=bool(number % 2))
    assert landed, "no kill landed while the run was alive"
    finish(arguments)
    weights = load_file(output / "model.safetensors")
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert logged_steps(output) == list(range(1, STEPS + 1))
    clock = json.loads((output / "clock.json").read_text(encoding="utf-8"))
    assert clock["attempts"] >= 2
    assert clock["steps"] == STEPS


def test_two_kills_change_nothing(tiny_folder, unbroken, tmp_path):
    check_kills(tiny_folder, unbroken, tmp_path, kills=2, seed=0)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 10))
def test_many_kills_change_nothing(tiny_folder, unbroken, tmp_path, seed):
    """Nine runs with two kills each; with the two of the quick test, 20 moments."""
    check_kills(tiny_folder, unbroken, tmp_path, kills=2, seed=seed)


def resumed(folder, rows, output, **changes):
    model, processor = load(folder)
    trainer = ScaleSFTTrainer(
        model,
        config(output, per_device_train_batch_size=4, save_strategy="steps", save_steps=2, **changes),
        train_dataset=rows,
        processing_class=processor,
    )
    trainer.train(resume_from_checkpoint=True)
    return trainer


@pytest.mark.parametrize("order", [{}, {"train_sampling_strategy": "group_by_length", "max_steps": 12}])
def test_resume_does_not_start_from_the_initial_weights(tiny_folder, tiny_rows, tmp_path, order):
    """The upstream fault: with transformers' own loader the weights of step 4 would be lost and nobody told.

    Twelve steps are two epochs; cut in the second, rows grouped by length must come in the order of that epoch.
    """
    common = {"per_device_train_batch_size": 4, "save_strategy": "steps", "save_steps": 2, "max_steps": 6, **order}
    last = common["max_steps"]
    whole = train(tiny_folder, tiny_rows, tmp_path / "whole", **common)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / f"checkpoint-{last}")
    again = resumed(tiny_folder, tiny_rows, tmp_path / "cut", **{"max_steps": 6, **order})
    assert torch.equal(flat(whole.model), flat(again.model))
    start_model, _ = load(tiny_folder)
    kept, _ = load(tmp_path / "cut" / f"checkpoint-{last - 2}")
    assert not torch.equal(flat(start_model), flat(kept))


def test_a_broken_checkpoint_is_passed_over_with_a_message(tiny_folder, tiny_rows, tmp_path, capsys):
    common = {"per_device_train_batch_size": 4, "save_strategy": "steps", "save_steps": 2}
    whole = train(tiny_folder, tiny_rows, tmp_path, max_steps=6, **common)
    for name, spoil in {
        "trainer_state.json": lambda path: path.unlink(),
        "model.safetensors": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    }.items():
        spoil(tmp_path / ("checkpoint-6" if name == "trainer_state.json" else "checkpoint-4") / name)
    found, passed_over = last_checkpoint(tmp_path)
    assert found == tmp_path / "checkpoint-2"
    assert len(passed_over) == 2
    again = resumed(tiny_folder, tiny_rows, tmp_path, max_steps=6)
    assert "passed over" in capsys.readouterr().out
    assert torch.equal(flat(whole.model), flat(again.model))


@pytest.mark.parametrize("name", ["trainer_state.json", "model.safetensors", "optimizer.pt", "scheduler.pt"])
def test_half_a_file_is_noticed(tiny_folder, tiny_rows, tmp_path, name):
    train(
        tiny_folder,
        tiny_rows,
        tmp_path,
        max_steps=1,
        per_device_train_batch_size=4,
        save_strategy="steps",
        save_steps=1,
    )
    folder = tmp_path / "checkpoint-1"
    assert checkpoint_fault(folder) is None
    file = folder / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert name in (checkpoint_fault(folder) or "")


def test_a_missing_tensor_is_an_error(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "broken")
    tensors = load_file(tmp_path / "broken" / "model.safetensors")
    name = sorted(tensors)[3]
    del tensors[name]
    save_file(tensors, tmp_path / "broken" / "model.safetensors", metadata={"format": "pt"})
    model, _ = load(tiny_folder)
    with pytest.raises(CheckpointError, match="1 missing"):
        load_weights(model, tmp_path / "broken")


def test_another_number_of_steps_is_refused_unless_asked_for(tiny_folder, tiny_rows, tmp_path):
    common = {"per_device_train_batch_size": 4, "save_strategy": "steps", "save_steps": 2}
    train(tiny_folder, tiny_rows, tmp_path, max_steps=2, **common)
    with pytest.raises(CheckpointError, match="2 steps"):
        resumed(tiny_folder, tiny_rows, tmp_path, max_steps=4)
    assert resumed(tiny_folder, tiny_rows, tmp_path, max_steps=4, scale_new_total_steps=True).state.global_step == 4


def test_lora_resumes_exactly(tiny_folder, tiny_rows, tmp_path):
    from peft import LoraConfig

    def run(output, resume):
        model, processor = load(tiny_folder)
        trainer = ScaleSFTTrainer(
            model,
            config(output, per_device_train_batch_size=4, max_steps=4, save_strategy="steps", save_steps=2),
            train_dataset=tiny_rows,
            processing_class=processor,
            peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]),
        )
        trainer.train(resume_from_checkpoint=resume)
        return torch.cat([p.detach().flatten() for n, p in trainer.model.named_parameters() if "lora_" in n])

    whole = run(tmp_path, None)
    shutil.rmtree(tmp_path / "checkpoint-4")
    assert torch.equal(whole, run(tmp_path, True))


def test_a_finished_run_is_left_alone_and_another_is_refused(tiny_folder, unbroken, capsys):
    data, _, _ = unbroken
    output = data.parent.parent / "run"
    assert {"run.json", "metrics.jsonl", "clock.json", "README.md", "model.safetensors"} <= {
        path.name for path in output.iterdir()
    }
    before = (output / "run.json").read_bytes()
    assert main(command(tiny_folder, data, output)[3:]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(command(tiny_folder, data, output, max_steps=3)[3:]) == 2
    assert f"max_steps: {STEPS} there, 3 now" in capsys.readouterr().err
    assert (output / "run.json").read_bytes() == before
    # Begun by a version that did not know a setting, which is off.
    told = json.loads(before)
    del told["config"]["pan_and_scan"]
    (output / "run.json").write_text(json.dumps(told))
    assert main(command(tiny_folder, data, output)[3:]) == 0
    assert main([*command(tiny_folder, data, output)[3:], "--pan_and_scan"]) == 2
    assert "other settings (pan_and_scan; " in capsys.readouterr().err
    (output / "run.json").write_bytes(before)


def run_here(model, data, output, **changes):
    """The command in this process, for a few steps."""
    return main(command(model, data, output, **{"max_steps": 4, "save_total_limit": 3, **changes})[3:])


def test_only_the_same_data_and_weights_are_gone_on_with(tiny_folder, tmp_path, capsys):
    """Under the same paths: an edited row or a model trained anew went unnoticed."""
    data, output = write_data(tmp_path / "data", count=16), tmp_path / "run"
    model = shutil.copytree(tiny_folder, tmp_path / "model")
    assert run_here(model, data, output) == 0
    told = json.loads((output / "run.json").read_text())
    assert set(told["inputs"]) == {"rows", "weights"}
    (output / "run.json").write_text(json.dumps({**told, "finished": False}))
    text = data.read_text()
    data.write_text(text.replace("Which colour", "What colour"))
    assert run_here(model, data, output) == 2
    assert "the rows of its data changed since it began" in capsys.readouterr().err
    data.write_text(text)
    tensors = load_file(model / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, model / "model.safetensors", {"format": "pt"})
    assert run_here(model, data, output) == 2
    assert "the weights of the model that it starts from changed" in capsys.readouterr().err
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    assert run_here(model, data, output) == 0

    # The checkpoint that is asked for is taken, the newer one left alone; metrics go back to it.
    whole = load_file(output / "model.safetensors")
    (output / "run.json").write_text(json.dumps({**told, "finished": False}))
    assert run_here(model, data, output, resume_from_checkpoint=output / "checkpoint-3") == 2
    assert "checkpoint-3 cannot be resumed from: no trainer_state.json" in capsys.readouterr().err
    stamp = (output / "checkpoint-4" / "model.safetensors").stat().st_mtime_ns
    assert run_here(model, data, output, resume_from_checkpoint=output / "checkpoint-2") == 0
    assert (output / "checkpoint-4" / "model.safetensors").stat().st_mtime_ns > stamp
    again = load_file(output / "model.safetensors")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_sft_starts_from_whole_weights_and_from_an_adapter(tiny_folder, tmp_path, capsys):
    data = write_data(tmp_path / "data", count=8)
    lora = {"use_peft": "true", "lora_r": 2, "lora_target_modules": "q_proj", "max_steps": 1, "save_steps": 1}
    assert run_here(tiny_folder, data, tmp_path / "lora", **lora) == 0
    for adapter in ("adapter", "checkpoint-1"):
        assert run_here(tmp_path / "lora" / adapter, data, tmp_path / adapter, max_steps=1, learning_rate=0) == 0
        found = load_file(tmp_path / adapter / "model.safetensors")
        merged = load_file(tmp_path / "lora" / "model.safetensors")
        assert all(torch.equal(found[name], merged[name]) for name in merged)
    broken = shutil.copytree(tiny_folder, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    del tensors["model.layers.0.self_attn.q_proj.weight"]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    assert run_here(broken, data, tmp_path / "none") == 2
    assert "the weights lack 1 tensors of the model" in capsys.readouterr().err
    assert not (tmp_path / "none" / "run.json").exists()


def test_a_loop_without_a_batch_is_not_finished(tiny_folder, tmp_path, capsys):
    data = write_data(tmp_path / "data", count=1)
    assert run_here(tiny_folder, data, tmp_path / "run", dataloader_drop_last="true") == 2
    assert "training stopped at step 0 of 4" in capsys.readouterr().err
    assert not json.loads((tmp_path / "run" / "run.json").read_text())["finished"]
    assert run_here(tiny_folder, data, tmp_path / "run", max_steps=1, per_device_train_batch_size=1) == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"use_peft": "true", "lora_target_modules": "no_such"}, "Target modules {'no_such'} not found"),
        ({"attn_implementation": "flash_attention_2"}, "doesn't seem to be installed; install it, or leave out"),
        ({"eval_strategy": "steps"}, "eval_strategy 'steps' needs rows to evaluate"),
        ({"optim": "adamw_bnb_8bit"}, "install `bitsandbytes`"),
        ({"deepspeed": "none.json"}, "'deepspeed"),
    ],
)
def test_what_the_libraries_refuse_is_one_line(tiny_folder, unbroken, tmp_path, capsys, changes, words):
    assert run_here(tiny_folder, unbroken[0], tmp_path / "run", **changes) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("balanced: ")
    assert words in line


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learning_rte": 1}, "did you mean --learning_rate?"),
        ({"max_steps": "many"}, "invalid int value"),
        ({"loss": "scal"}, "loss"),
        ({"scale_start": '{"think": 1'}, "not valid JSON"),
        ({"dataset": "no/such/file.jsonl"}, "no/such/file.jsonl"),
        ({"model_name_or_path": "no/such/folder/of/models"}, "no/such/folder/of/models"),
        ({"eval_fraction": 2}, "eval_fraction"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(tiny_folder, unbroken, tmp_path, capsys, changes, words):
    data, _, _ = unbroken
    assert main(command(tiny_folder, data, tmp_path / "run", **changes)[3:]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("balanced: ")
    assert words in error
