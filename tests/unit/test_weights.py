"""``training.weights``: adapters as a start, and what a run leaves at its end."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import ModelConfig

from balanced_thinking.errors import CheckpointError
from balanced_thinking.training.weights import adapter_config, base_of, merged_start, processor_source, save_final
from tiny import tiny_qwen2_5_vl


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tiny_qwen2_5_vl(tmp_path_factory.mktemp("model") / "tiny")


def adapted(whole):
    model = AutoModelForImageTextToText.from_pretrained(whole, dtype=torch.float32)
    torch.manual_seed(0)
    return get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))


@pytest.fixture(scope="module")
def adapter(whole, tmp_path_factory):
    """As a run leaves it: with the processor's files."""
    folder = tmp_path_factory.mktemp("run") / "adapter"
    adapted(whole).save_pretrained(folder)
    AutoProcessor.from_pretrained(whole).save_pretrained(folder)
    return folder


def changed(one, other):
    one, other = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert one.keys() == other.keys()
    return {name for name in one if not torch.equal(one[name].float(), other[name].float())}


def test_an_adapter_with_a_processor_of_its_own_is_a_start(whole, adapter, tmp_path):
    """Folders of our own runs were refused: they hold a processor, but no config.json."""
    assert processor_source(str(adapter)) == (str(adapter), {})
    start = merged_start(str(adapter), tmp_path, {})
    assert all("q_proj.weight" in name for name in changed(whole, tmp_path / start))
    assert merged_start(str(whole), tmp_path, {}) == str(whole)


def test_a_bare_adapter_has_the_processor_of_its_base_at_its_revision(whole, adapter, tmp_path):
    shutil.copytree(adapter, tmp_path / "bare", ignore=shutil.ignore_patterns("*processor_config.json"))
    assert processor_source(str(tmp_path / "bare")) == (str(whole), {})
    file = tmp_path / "bare" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "revision": "v2"}))
    assert processor_source(str(tmp_path / "bare")) == (str(whole), {"revision": "v2"})


def test_the_merged_start_has_the_precision_that_was_asked_for(adapter, tmp_path):
    start = merged_start(str(adapter), tmp_path, {"dtype": "bfloat16"})
    assert {tensor.dtype for tensor in load_file(tmp_path / start / "model.safetensors").values()} == {torch.bfloat16}
    assert merged_start(str(adapter), tmp_path, {"dtype": "float32"}) != start


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ('{"base_model_name_or_path": "/no/such/model"}', "base_model_name_or_path: there is no model folder"),
        ('{"base_model_name_or_path": null}', "names no base model"),
        ("[]", "is not an adapter's configuration"),
    ],
)
def test_an_adapter_without_its_base_is_one_line(tmp_path, told, words):
    (tmp_path / "adapter_config.json").write_text(told)
    with pytest.raises(CheckpointError, match=words):
        base_of(tmp_path)


class Trainer:
    """What ``save_final`` needs of one."""

    def __init__(self, model, **told):
        self.model, self.is_fsdp_enabled, self.is_deepspeed_enabled = model, False, False
        self.args = SimpleNamespace(model_init_kwargs={"dtype": "float32"}, trust_remote_code=False)
        self.processing_class = SimpleNamespace(save_pretrained=lambda folder: None)
        self.plugin = SimpleNamespace(kind="SHARDED_STATE_DICT")
        self.plugin.set_state_dict_type = lambda kind: setattr(self.plugin, "kind", kind)
        self.accelerator = SimpleNamespace(
            unwrap_model=lambda model: model, state=SimpleNamespace(fsdp_plugin=self.plugin)
        )
        vars(self).update(told)

    def is_world_process_zero(self):
        return True

    def save_model(self, folder):
        """As ``transformers.Trainer``: with sharded state dicts it writes nothing and says nothing."""
        if not self.is_fsdp_enabled or self.plugin.kind == "FULL_STATE_DICT":
            self.model.save_pretrained(folder)


def test_a_quantized_base_is_not_merged_into(whole, tmp_path):
    """Merging into rounded weights gives another model than the one that was trained."""
    model = adapted(whole)
    base = model.get_base_model()
    base.is_quantized = True
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.copy_(parameter.round(decimals=1))
    save_final(Trainer(model), tmp_path)
    names = changed(whole, tmp_path)
    assert names
    assert all("q_proj.weight" in name for name in names)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("lora", [False, True])
def test_a_cut_model_is_written_whole(whole, tmp_path, lora):
    model = adapted(whole) if lora else AutoModelForImageTextToText.from_pretrained(whole, dtype=torch.float32)
    if lora:
        model.merge_and_unload = None  # only all ranks together could
    save_final(Trainer(model, is_fsdp_enabled=True), tmp_path)
    assert bool(changed(whole, tmp_path)) == lora


def test_a_run_without_weights_is_not_finished(whole, tmp_path):
    with pytest.raises(CheckpointError, match="the trained model was not written: no weights"):
        save_final(Trainer(torch.nn.Linear(1, 1), save_model=lambda folder: None), tmp_path)


@pytest.mark.parametrize(
    ("given", "found"),
    [(["q_proj"], {"q_proj"}), (["q_proj", "v_proj"], {"q_proj", "v_proj"}), ([r".*\.q_proj"], r".*\.q_proj"),
     (["all-linear"], "all-linear")],
)  # fmt: skip
def test_one_target_is_the_name_of_a_module(given, found):
    """TRL hands it over as text, in which PEFT found no module."""
    model = ModelConfig(use_peft=True, lora_target_modules=given)
    assert adapter_config(model, "unused", tower_frozen=False).target_modules == found
