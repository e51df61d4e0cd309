"""Prompts as conversations, with tokenizers that have the chat templates of real models."""

from collections.abc import Sequence

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from services.llm.chat import INSTRUCTION, ChatFrame, chat_frame, chat_messages
from services.llm.engine import TransformersCompleter
from services.llm.generator import Generation
from services.llm.prompts import Example, ExampleSet
from unspoken.errors import InvalidConfig

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer_of(template: str | None, *, writes_start: bool = False) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer; with `writes_start` it puts <s> before every text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {char: index for index, char in enumerate(["<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if writes_start:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", chat_template=template
    )


EXAMPLES = ExampleSet((Example("q", "Q:", "a, b"), Example("r", "R:", "none")), separator="\n")


def test_examples_are_turns_and_the_instruction_opens_the_first():
    assert [(m["role"], m["content"]) for m in chat_messages("S:", examples=EXAMPLES)] == [
        ("user", f"{INSTRUCTION}Q:"),
        ("assistant", "a, b"),
        ("user", "R:"),
        ("assistant", "none"),
        ("user", "S:"),
    ]


def test_a_frame_ends_where_the_answer_begins():
    assert chat_frame(tokenizer_of(CHATML), examples=EXAMPLES) == ChatFrame(
        before=f"<|im_start|>user\n{INSTRUCTION}Q:<|im_end|>\n"
        "<|im_start|>assistant\na, b<|im_end|>\n"
        "<|im_start|>user\nR:<|im_end|>\n"
        "<|im_start|>assistant\nnone<|im_end|>\n"
        "<|im_start|>user\n",
        after="<|im_end|>\n<|im_start|>assistant\n",
    )


@pytest.mark.parametrize("writes_start", [True, False])
def test_a_prompt_has_one_start_token(writes_start):
    tokenizer = tokenizer_of(
        "<s>{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %} [answer]",
        writes_start=writes_start,
    )
    frame = chat_frame(tokenizer, examples=EXAMPLES)
    assert frame.after == " [answer]"
    assert tokenizer(frame.before)["input_ids"].count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("template", [None, "hello"], ids=["no format", "drops the question"])
def test_a_tokenizer_that_cannot_chat_is_refused_at_start(template):
    generator = Recorder(tokenizer_of(template))
    with pytest.raises(InvalidConfig, match="chat format"):
        TransformersCompleter(generator, prompt_style="chat")
    TransformersCompleter(generator, prompt_style="completion")


class Recorder:
    """A generator that records its prompts."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.prompts: list[str] = []

    def generate(self, suffixes: Sequence[str], *, prefix: str) -> list[Generation]:
        self.prompts += [prefix + suffix for suffix in suffixes]
        return [Generation("car", -1.0, tokens=(1,), gaps=(1.0,)) for _ in suffixes]


@pytest.mark.parametrize("style", ["completion", "chat"])
def test_each_style_asks_with_the_same_examples(style):
    generator = Recorder(tokenizer_of(CHATML))
    completer = TransformersCompleter(generator, prompt_style=style)
    answers = completer.complete(["S:", "T:"], examples=EXAMPLES)
    assert [answer.text for answer in answers] == ["car", "car"]
    frame = chat_frame(generator.tokenizer, examples=EXAMPLES)
    assert (
        generator.prompts
        == {
            "completion": ["Q: a, b\nR: none\nS:", "Q: a, b\nR: none\nT:"],
            "chat": [f"{frame.before}{question}{frame.after}" for question in ("S:", "T:")],
        }[style]
    )
