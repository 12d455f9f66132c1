"""What we rely on in transformers and TRL beyond their documented surface; fails loudly when a release changes it."""

import importlib.metadata
import inspect

import trl
from packaging.version import Version
from transformers import Qwen2_5_VLProcessor, Trainer, TrainerState, TrainingArguments


def test_versions_are_the_ones_that_were_read():
    assert Version("5.23") <= Version(importlib.metadata.version("transformers")) < Version("5.24")
    assert Version("1.16") <= Version(trl.__version__) < Version("1.17")


def test_private_hooks_of_resume():
    assert list(inspect.signature(Trainer._load_from_checkpoint).parameters) == [
        "self", "resume_from_checkpoint", "model",
    ]  # fmt: skip
    assert list(inspect.signature(Trainer._load_best_model).parameters) == ["self"]
    assert list(inspect.signature(Trainer._prepare_for_training).parameters) == [
        "self", "max_steps", "train_dataloader", "resume_from_checkpoint",
    ]  # fmt: skip
    source = inspect.getsource(Trainer.train) + inspect.getsource(Trainer._inner_training_loop)
    assert "self._load_from_checkpoint(" in source
    # trainer_state.json is written after weights, optimizer, scheduler and random states.
    saving = inspect.getsource(Trainer._save_checkpoint)
    order = ["save_model(", "_save_optimizer_and_scheduler(", "_save_rng_state(", "TRAINER_STATE_NAME"]
    assert [saving.index(part) for part in order] == sorted(saving.index(part) for part in order)


def test_hooks_of_random_states_and_of_zero3():
    from transformers.integrations import deepspeed

    source = inspect.getsource(Trainer._save_rng_state)
    assert '"rng_state.pth"' in source
    assert 'f"rng_state_{self.args.process_index}.pth"' in source
    assert hasattr(deepspeed, "_hf_deepspeed_config_weak_ref")


def test_hooks_of_the_loss():
    assert list(inspect.signature(Trainer.get_batch_samples).parameters) == [
        "self", "epoch_iterator", "num_batches", "device",
    ]  # fmt: skip
    assert list(inspect.signature(trl.SFTTrainer.compute_loss).parameters) == [
        "self", "model", "inputs", "return_outputs", "num_items_in_batch",
    ]  # fmt: skip
    assert hasattr(Trainer, "loss_is_scaled_for_ga")
    assert {"global_step", "max_steps", "num_input_tokens_seen"} <= set(vars(TrainerState(max_steps=1)))
    assert "skip_prepare_dataset" in inspect.getsource(trl.SFTTrainer.__init__)
    assert {"activation_checkpointing", "use_cpu", "include_num_input_tokens_seen"} <= set(
        inspect.signature(TrainingArguments).parameters
    )


def test_hooks_of_the_order_of_rows():
    from accelerate.data_loader import DataLoaderShard
    from transformers.trainer_pt_utils import get_length_grouped_indices

    assert list(inspect.signature(Trainer._get_train_sampler).parameters) == ["self", "train_dataset"]
    assert {"lengths", "batch_size", "generator"} <= set(inspect.signature(get_length_grouped_indices).parameters)
    assert "sampler.set_epoch" in inspect.getsource(DataLoaderShard.set_epoch)


def test_hooks_of_generation():
    from transformers import DynamicCache, GenerationMixin
    from transformers.cache_utils import DynamicLayer

    assert "custom_generate" in inspect.signature(GenerationMixin.generate).parameters
    assert list(inspect.signature(GenerationMixin._update_model_kwargs_for_generation).parameters)[:3] == [
        "self", "outputs", "model_kwargs",
    ]  # fmt: skip
    assert {"update", "lazy_initialization", "get_seq_length", "batch_select_indices"} <= set(dir(DynamicLayer))
    assert "layers" in inspect.getsource(DynamicCache.__init__)


def test_processors_tell_the_size_of_pictures():
    assert hasattr(Qwen2_5_VLProcessor, "_get_num_multimodal_tokens")


def test_choices_of_grpo():
    """TRL looks at them in the first step only, so we keep the lists."""
    from balanced_thinking.training.grpo import CHOICES

    source = inspect.getsource(trl.GRPOTrainer)
    assert all(f'"{name}"' in source for names in CHOICES.values() for name in names)


def test_hooks_of_rollouts():
    source = inspect.getsource(trl.GRPOTrainer._generate)
    assert "self.rollout_func(prompts, self)" in source
    assert '{"prompt_ids", "completion_ids", "logprobs"}' in source
    made = inspect.getsource(trl.GRPOTrainer.__init__)
    assert {"generation_config", "generation_kwargs", "chat_template_kwargs"} <= {
        line.split("=")[0].strip().removeprefix("self.") for line in made.splitlines()
    }


def test_layers_that_fsdp_looks_for():
    """``models.modeling.name_present_layers`` can go when no name is left that is not in the model."""
    from accelerate.utils import FullyShardedDataParallelPlugin, fsdp_utils
    from torch import device
    from transformers import LlavaNextForConditionalGeneration

    from balanced_thinking.demo.presets.families import llava_next
    from balanced_thinking.demo.presets.tokenizer import bytes_vocabulary
    from balanced_thinking.demo.presets.twins import SIZE

    for reader in (FullyShardedDataParallelPlugin.set_auto_wrap_policy, fsdp_utils.fsdp2_prepare_auto_wrap_policy):
        assert 'getattr(model, "_no_split_modules", None)' in inspect.getsource(reader)
    with device("meta"):
        tokenizer = llava_next.make_tokenizer(*bytes_vocabulary())
        model = LlavaNextForConditionalGeneration(llava_next.make_config(tokenizer, SIZE))
    absent = set(model._no_split_modules) - {type(module).__name__ for module in model.modules()}
    assert "CLIPTextEmbeddings" in absent
