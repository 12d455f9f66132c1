"""What vLLM is given and how its outputs are read, against a stand-in for the package: we have no GPU to run it on."""

import json
import sys
from types import SimpleNamespace

import pytest
from PIL import Image
from transformers import AutoProcessor

from balanced_thinking.core.segments import THINK_ANSWER
from balanced_thinking.errors import EvaluationError
from balanced_thinking.evaluation.engine import Engine
from balanced_thinking.evaluation.generation import Prompt
from tiny import CHAT_TEMPLATE, tiny_qwen2_5_vl

PICTURE = Image.new("RGB", (16, 16), (200, 30, 30))
ANSWER = "look</think><answer>red</answer>"


class FakeVllm:
    """``vllm.LLM`` as far as it is used: every prompt is tokenised as a raw one and gets the same answer."""

    def __init__(self, folder):
        self.tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
        self.made, self.read = [], []

    def LLM(self, **options):  # noqa: N802
        if "no_such_option" in options:
            raise TypeError("EngineArgs.__init__() got an unexpected keyword argument 'no_such_option'")
        self.made.append(options)
        return self

    def SamplingParams(self, **options):  # noqa: N802
        return SimpleNamespace(**options)

    def generate(self, requests, sampling, *, tokenization_kwargs):
        assert sampling.temperature == 0.0
        if any("long" in request["prompt"] for request in requests):
            raise ValueError("The decoder prompt (length 9312) is longer than\nthe maximum model length of 8192.")
        outputs = []
        for request in requests:
            special = tokenization_kwargs["add_special_tokens"]
            bos = [self.tokenizer.bos_token_id] if special and self.tokenizer.bos_token else []
            ids = bos + self.tokenizer(request["prompt"], add_special_tokens=False)["input_ids"]
            self.read.append((request, ids))
            answer = self.tokenizer(ANSWER + "<|im_end|>", add_special_tokens=False)["input_ids"]
            completion = SimpleNamespace(token_ids=answer, finish_reason="stop")
            outputs.append(SimpleNamespace(outputs=[completion], prompt_token_ids=ids))
        return outputs


@pytest.fixture
def folder(tmp_path):
    """A tiny model whose template opens the think."""
    folder = tiny_qwen2_5_vl(tmp_path / "model")
    opened = CHAT_TEMPLATE.replace("assistant\n{% endif", "assistant\n<think>{% endif")
    (folder / "chat_template.jinja").write_text(opened)
    return folder


@pytest.fixture
def vllm(folder, monkeypatch):
    fake = FakeVllm(folder)
    monkeypatch.setitem(sys.modules, "vllm", fake)
    return fake


def ask(engine, *pictures):
    """The responses to a prompt for each number of pictures."""
    prompts = []
    for count in pictures:
        content = [{"type": "image"}] * count + [{"type": "text", "text": "Which colour?"}]
        prompts.append(Prompt(f"q{count}", [{"role": "user", "content": content}], (PICTURE,) * count))
    generator = engine.generator(8, batch_size=None, say=print, segments=THINK_ANSWER, template={})
    return [response for batch in generator.batches(prompts) for _, response in batch]


def test_prompts_and_answers(folder, vllm):
    first, second = ask(Engine(folder, "vllm"), 0, 1)
    assert (first.prefix + first.text, first.truncated) == ("<think>" + ANSWER, False)
    assert (second.think_tokens, second.text) == (first.think_tokens, ANSWER)
    assert "multi_modal_data" not in vllm.read[0][0]
    assert len(vllm.read[1][0]["multi_modal_data"]["image"]) == 1


@pytest.mark.parametrize("written", [True, False])
def test_a_prompt_begins_with_one_bos_token(folder, vllm, written):
    """Gemma 3's and Mistral's templates write it, and vLLM once added another."""
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"bos_token": "<|endoftext|>"}))
    template = folder / "chat_template.jinja"
    template.write_text("<|endoftext|>" * written + template.read_text())
    vllm.tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
    ask(Engine(folder, "vllm"), 1)
    ((_, ids),) = vllm.read
    bos = vllm.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert [token == bos for token in ids[:2]] == [True, False]


def test_options_reach_vllm_and_one_engine_serves_all(folder, vllm):
    engine = Engine(folder, "vllm", dtype="bfloat16", options={"tensor_parallel_size": 2})
    ask(engine, 1)
    ask(engine, 0, 1)
    assert vllm.made == [
        {
            "model": str(folder),
            "limit_mm_per_prompt": {"image": 1},
            "dtype": "bfloat16",
            "tensor_parallel_size": 2,
        }
    ]
    ask(engine, 2)
    assert [made["limit_mm_per_prompt"] for made in vllm.made] == [{"image": 1}, {"image": 2}]


def test_the_users_limit_of_pictures_wins(folder, vllm):
    ask(Engine(folder, "vllm", options={"limit_mm_per_prompt": {"image": 4}}), 1)
    assert vllm.made[0]["limit_mm_per_prompt"] == {"image": 4}


def test_a_prompt_that_vllm_refuses_is_one_line(folder, vllm):
    generator = Engine(folder, "vllm").generator(8, batch_size=None, say=print, segments=THINK_ANSWER, template={})
    with pytest.raises(EvaluationError, match=r"refuses a prompt .*longer than the maximum.*; change backend_options$"):
        list(generator.batches([Prompt("q", [{"role": "user", "content": "how long?"}], ())]))


def test_an_option_that_vllm_does_not_know_is_one_line(folder, vllm):
    with pytest.raises(EvaluationError, match=r"unexpected keyword argument 'no_such_option'\); change backend_opt"):
        ask(Engine(folder, "vllm", options={"no_such_option": 1}), 0)
