"""Every recipe is read, goes through two real steps on the twin of its model, and its head tells what it would take.

The figures of the heads are worked out here anew, from the recipe's own values and the published sizes of the models.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from test_resume import write_data

import balanced_thinking
from balanced_thinking.cli.main import main
from balanced_thinking.training.grpo import GRPO_PRESETS

RECIPES = Path(balanced_thinking.__file__).parents[2] / "recipes"
FILES = sorted(RECIPES.glob("*.yaml"))
ROWS = {"vision_r1_llava_cot_full.json": 63_019, "vision_r1_mulberry_sft_full.json": 197_975}
LONGEST = 16_384  # max_length of the recipes for SFT
PEAK = {"24gb": 165e12 * 0.3, "8gpu": 8 * 312e12 * 0.4}  # FLOP/s that are used: one RTX 4090, eight A100


@dataclass(frozen=True)
class Size:
    """Of the published configurations; ``row`` and ``prompt`` are the tokens that the heads assume."""

    parameters: float
    embedded: float  # of them in embeddings and head, which 4-bit weights leave out
    layers: int
    width: int
    inner: int
    queries: int
    keys: int
    full: int  # layers without a sliding window of 1,024 tokens
    row: int
    prompt: int
    pace: dict[str, int]  # tokens a second of one completion that the heads assume

    @property
    def adapter(self) -> float:
        """Parameters of LoRA on the text model's seven projections, of rank 1."""
        attention = 2 * (self.width + self.queries) + 2 * (self.width + self.keys)
        return self.layers * (attention + 3 * (self.width + self.inner))

    def cache(self, tokens: int) -> float:
        """Bytes that a completion's keys and values take."""
        return 4 * self.keys * (self.full * tokens + (self.layers - self.full) * min(tokens, 1024))

    def activations(self, tokens: int) -> float:
        """Bytes: the input of every layer, and the layer that is recomputed."""
        return tokens * self.width * 2 * self.layers + 4 * tokens * self.inner * 2


SIZES = {
    "qwen2_5_vl_3b": Size(3.75e9, 0.31e9, 36, 2048, 11008, 2048, 256, 36, 1000, 400, {"24gb": 25, "8gpu": 60}),
    "gemma_3_4b": Size(4.30e9, 0.67e9, 34, 2560, 10240, 2048, 1024, 5, 1000, 400, {"24gb": 25, "8gpu": 60}),
    "llava_v1_6_mistral_7b": Size(
        7.57e9, 0.263e9, 32, 4096, 14336, 4096, 1024, 32, 2600, 2300, {"24gb": 15, "8gpu": 45}
    ),
}


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BALANCED_THINKING_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_two_steps_on_the_twin(file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    verb = "grpo" if "-grpo-" in file.stem else "sft"
    data = write_data(tmp_path / "data")  # quicker than the embedded set, which stands in for data that are not here
    assert main([verb, "--config", str(file), "--dataset", str(data), "--dry-run"]) == 0
    told = capsys.readouterr()
    assert "2 steps went through on the twin of" in told.out
    assert "step 2/2" in told.err
    assert ("checked 16 of 16 rows, 16 kept" in told.err) == (verb == "sft")
    assert "warning: warmup_steps" not in told.err


class Recipe:
    """A file of the folder: its fields, and the text of its head without the marks of comments."""

    def __init__(self, file: Path) -> None:
        self.model, stage, self.machine = re.fullmatch(r"(\w+)-(\w+)-(\w+)", file.stem).groups()
        lines = file.read_text().splitlines()
        self.head = " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))
        self.fields = yaml.safe_load(file.read_text())
        self.fields = {**GRPO_PRESETS[self.fields.get("grpo_preset", "trl")], **self.fields}
        self.size, self.grpo, self.gpus = SIZES[self.model], stage == "grpo", 8 if self.machine == "8gpu" else 1
        self.batch = self.fields["per_device_train_batch_size"] * self.fields["gradient_accumulation_steps"] * self.gpus

    def figure(self, pattern: str) -> tuple[float, str]:
        """A number of the head, and how it is written: its decimals say how exact it means to be."""
        text = re.search(pattern, self.head)[1]
        return float(text), f".{len(text.partition('.')[2])}f"

    def weights(self) -> float:
        """Bytes of the model as it is loaded on one GPU."""
        size = self.size
        if not self.fields.get("load_in_4bit"):
            return 2 * size.parameters
        return 0.5625 * (size.parameters - size.embedded) + 2 * size.embedded

    def state(self) -> float:
        """Bytes a GPU of weights, gradients and states of AdamW; TRL has adapters on 4-bit weights in bf16."""
        if self.fields.get("use_peft"):
            each = 8 if self.fields.get("load_in_4bit") else 16
            return self.weights() + each * self.fields["lora_r"] * self.size.adapter
        return 16 * self.size.parameters / self.gpus

    def tokens(self) -> int:
        """Longest prompt and completion."""
        return self.size.prompt + self.fields["max_completion_length"]

    def at_a_time(self) -> int:
        """Completions that a GPU makes at once."""
        micro = self.fields.get("steps_per_generation") or self.fields["gradient_accumulation_steps"]
        return self.fields["per_device_train_batch_size"] * micro

    def memory(self) -> float:
        """GB at the peak."""
        if not self.grpo:
            return (self.state() + self.size.activations(self.fields["max_length"])) / 1e9
        if self.gpus == 1:
            return (self.state() + self.at_a_time() * self.size.cache(self.tokens())) / 1e9
        engine = self.fields["vllm_gpu_memory_utilization"] * 80e9
        seen = self.size.activations(self.fields["per_device_train_batch_size"] * self.tokens())
        return (self.state() + 2 * self.size.parameters / self.gpus + engine + seen) / 1e9

    def hours(self, rows: int | None = None) -> float:
        """As the formula in the head has it; ``rows`` in place of those of the data set."""
        size, fields, used = self.size, self.fields, PEAK[self.machine]
        if not self.grpo:
            files = [fields["dataset"]] if isinstance(fields["dataset"], str) else fields["dataset"]
            count = (rows or sum(ROWS[name] for name in files)) * (1 - fields.get("eval_fraction", 0))
            return 8 * size.parameters * count * size.row * fields["num_train_epochs"] / used / 3600
        rounds = fields["max_steps"] * self.batch / self.gpus / self.at_a_time()
        making = rounds * fields["max_completion_length"] / size.pace[self.machine]
        questions = fields["max_steps"] * self.batch / fields["num_generations"]
        reading = 2 * size.parameters * questions * size.prompt / used
        training = 10 * size.parameters * fields["max_steps"] * self.batch * self.tokens() / used
        return (making + reading + training) / 3600


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_figures_of_the_head_are_those_of_the_recipe(file):
    recipe = Recipe(file)
    hours, form = recipe.figure(r"Hours, expected: ([\d.]+) h = ")
    assert format(hours, form) == format(recipe.hours(), form)
    memory, form = recipe.figure(r"Memory(?: a GPU)?, expected: ([\d.]+) GB")
    assert format(memory, form) == format(recipe.memory(), form)
    assert memory <= (22 if recipe.gpus == 1 else 72)
    if recipe.grpo:
        questions, form = recipe.figure(r"Questions an optimizer step: (\d+) = ")
        assert questions == recipe.batch / recipe.fields["num_generations"]
    elif recipe.gpus == 1:
        shorter, form = recipe.figure(r"--limit 10000 takes ([\d.]+) h")
        assert format(shorter, form) == format(recipe.hours(10_000), form)
    assert all(
        part in recipe.head for part in ("Data: ", "Sources: ", "Our choice: ", "Nobody has run this", "--dry-run")
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_recipe_holds_what_its_kind_needs(file):
    recipe = Recipe(file)
    fields = recipe.fields
    assert fields["dtype"] == "bfloat16"
    assert fields["freeze_vision_tower"] is fields["activation_checkpointing"] is True
    if not recipe.grpo:
        assert recipe.batch == 32
        assert fields["max_length"] == LONGEST
        assert fields["per_device_eval_batch_size"] == 1  # transformers' 8 would not fit
        return
    # Vision-R1's cold start writes 3,566 tokens on average: a lower cap would cut most completions off.
    assert fields["max_completion_length"] == 4096
    assert "warmup_steps" not in fields
    assert recipe.batch / fields["num_generations"] >= 4
    if fields.get("use_vllm"):
        room = fields["vllm_gpu_memory_utilization"] * 80e9 - 2 * recipe.size.parameters
        assert recipe.at_a_time() * recipe.size.cache(recipe.tokens()) < room
        assert recipe.tokens() < fields["vllm_max_model_length"]


@pytest.mark.parametrize("name", ["fsdp2", "zero3"])
def test_accelerate_reads_its_files(name):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(RECIPES / "accelerate" / f"{name}.yaml"))
    assert config.num_processes == 8
    assert config.mixed_precision == "bf16"
