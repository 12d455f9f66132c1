"""What a chat template writes of a response, and templates that cannot be used."""

import pytest

from balanced_thinking.core.segments import THINK_ANSWER
from balanced_thinking.data.rowcheck import Row
from balanced_thinking.data.templates import Rendered, end_of_turn_ids, prefilled, render_prompt, token_targets
from balanced_thinking.errors import ConfigError
from balanced_thinking.evaluation.generation import Prompt, prefixes_of
from balanced_thinking.training.grpo import prefilled_tag
from tiny import CHAT_TEMPLATE, tiny_processor

ASKED = [{"role": "user", "content": "Does <think> matter? </answer>"}]
TAILS = [
    ("", ""),
    ("<think>\n", "<think>\n"),
    ("<think>\n\n</think>\n\n", "<think>\n\n</think>\n\n"),
    ("<think>\nOkay, ", "<think>\nOkay, "),
    ("Here: <answer>", "<answer>"),
    ("so: ", ""),
]


def with_tail(tail, *, end=""):
    """A processor whose template writes ``tail`` of each response, and ``end`` where none is asked for."""
    processor = tiny_processor()
    start = "<|im_start|>assistant\n"
    processor.chat_template = CHAT_TEMPLATE.replace(
        f"{start}{{% endif %}}", f"{start}{tail}{{% else %}}{end}{{% endif %}}"
    )
    return processor


# The second template does not begin as without a generation prompt (Phi-3's does so).
@pytest.mark.parametrize("end", ["", "<|endoftext|>"])
@pytest.mark.parametrize(("tail", "expected"), TAILS)
def test_rewards_and_evaluation_agree_on_what_the_template_wrote(tail, expected, end):
    """GRPO's rewards once saw no more than an opening tag at the very end."""
    processor = with_tail(tail, end=end)
    text = render_prompt(processor, ASKED)
    assert prefilled(processor, ASKED, prompt=text, segments=THINK_ANSWER) == expected
    assert prefilled_tag(processor, ASKED) == expected
    assert prefixes_of(processor, [Prompt("q", ASKED)], texts=[text], segments=THINK_ANSWER) == [expected]


def mistral_like(text):
    """A tokenizer as Mistral's: blanks are marked "▁", joined to what follows, and tags are no tokens of their own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "</s>", "▁", *sorted(set(text) - {" "}), "▁<"]
    model = models.BPE({piece: number for number, piece in enumerate(pieces)}, [("▁", "<")], unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="first")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("tags", ["own", "next"])
def test_the_token_that_joins_a_blank_to_the_first_tag_is_trained(tags):
    """LLaVA's template for Mistral writes a blank before the response: its first token, "▁<", had no segment."""
    prompt, response = "[INST] Q? [/INST]", "<think>a</think><answer>b</answer>"
    rendered = Rendered(f"{prompt} {response}</s> ", len(prompt), "")
    tokenizer = mistral_like(rendered.text)
    row = Row("r", None, None, [], response)
    found = token_targets(
        tokenizer, rendered, row=row, segments=THINK_ANSWER, end_ids=end_of_turn_ids(tokenizer), tags=tags
    )
    tokens = tokenizer.convert_ids_to_tokens(found.tail)
    assert tokens[:3] == ["▁<", "t", "h"]
    assert tokens[found.segments.index(2)] == "<"
    assert (found.segments[0], found.segments[-1], 0 in found.segments) == (1, 2, False)


def test_options_of_the_template_count():
    processor = with_tail("{% if not thinking %}<think></think>{% endif %}")
    assert prefilled_tag(processor, ASKED) == "<think></think>"
    assert prefilled_tag(processor, ASKED, thinking=True) == ""


def test_a_model_without_chat_template_is_one_line():
    processor = tiny_processor()
    processor.chat_template = None
    with pytest.raises(ConfigError, match=r"has no chat template.*; put one into its folder as chat_template\.jinja"):
        render_prompt(processor, ASKED)


def test_a_template_that_refuses_a_turn_is_one_line():
    processor = tiny_processor()
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    processor.chat_template = refusal + CHAT_TEMPLATE
    assert render_prompt(processor, ASKED)
    with pytest.raises(ConfigError, match=r"turns of system, user \(System role not supported\); leave out"):
        render_prompt(processor, [{"role": "system", "content": "Look."}, *ASKED])
