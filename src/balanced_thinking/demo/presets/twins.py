"""Twins of large models: the same transformers classes and processors, random weights, 0.2 M parameters, in a second.

A dry run trains one on a CPU to find out whether a recipe, its data and its chat template work before a GPU is paid
for; the tests go through all families with them. What it leaves out: what differs between families (``families``),
knowledge (``tiny`` makes models that have some).
"""

from pathlib import Path

from balanced_thinking.demo.presets.families import FAMILIES, Size
from balanced_thinking.demo.presets.tokenizer import bytes_vocabulary

SIZE = Size(
    text={
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
    },
    vision={"hidden_size": 32, "intermediate_size": 48, "layers": 2, "heads": 2},
    token=8,
    tile=2,
    tiles=2,
    longest=4,
    vision_window=16,
    sliding_window=16,
)
STD = 0.1  # random answers that depend on the picture


def build_twin(family: str, folder: str | Path, seed: int = 0) -> Path:
    """Write the twin of a family (a name in ``FAMILIES``) to ``folder``, a token a byte."""
    import torch
    from transformers import AutoModelForImageTextToText

    module = FAMILIES[family]
    tokenizer = module.make_tokenizer(*bytes_vocabulary())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(module.make_config(tokenizer, SIZE))
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=STD)
    model.eval()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    module.make_processor(tokenizer, SIZE).save_pretrained(folder)
    return Path(folder)
