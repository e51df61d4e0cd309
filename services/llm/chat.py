"""The few-shot prompts as a conversation, for instruction-tuned models.

Each worked example is a user turn with a question and an assistant turn with its answer. The
instruction precedes the first question. If the examples are one long message, SmolLM2 copies them
instead of answering.

The chat format belongs to the model and comes with its tokenizer. Everything before the question is
one text, so its keys and values can be cached, as for a completion prompt.
"""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from services.llm.prompts import ExampleSet
from unspoken.errors import InvalidConfig

INSTRUCTION = "Answer with a comma-separated list only.\n\n"
_MARK = "MESSAGE"


@dataclass(frozen=True)
class ChatFrame:
    """The text of a conversation before and after the question, up to the start of the answer."""

    before: str
    after: str


def chat_messages(question: str, *, examples: ExampleSet) -> list[dict[str, str]]:
    """Return the conversation as {role, content} messages: worked examples, then the question."""
    asked = [*(example.question for example in examples.examples), question]
    asked[0] = INSTRUCTION + asked[0]  # because not every chat format has a system role
    messages = [{"role": "user", "content": asked[0]}]
    for example, follow_up in zip(examples.examples, asked[1:], strict=True):
        messages.append({"role": "assistant", "content": example.answer})
        messages.append({"role": "user", "content": follow_up})
    return messages


def check_chat_format(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise InvalidConfig if a tokenizer has no chat format, or one that drops the question."""
    if not tokenizer.chat_template:
        raise InvalidConfig(
            f"{tokenizer.name_or_path} has no chat format; set LLM_PROMPT_STYLE=completion"
        )
    chat_frame(tokenizer, examples=ExampleSet((), separator=""))


def chat_frame(tokenizer: PreTrainedTokenizerBase, *, examples: ExampleSet) -> ChatFrame:
    """Return the frame of a question that follows these examples.

    Raises InvalidConfig if the chat format drops the question.
    """
    rendered = tokenizer.apply_chat_template(
        chat_messages(_MARK, examples=examples), tokenize=False, add_generation_prompt=True
    )
    before, mark, after = str(rendered).rpartition(_MARK)
    if not mark:
        raise InvalidConfig(f"{tokenizer.name_or_path}: its chat format drops the user's message")
    return ChatFrame(_without_second_start(before, tokenizer), after)


def _without_second_start(before: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Remove the start token if the tokenizer adds it again: some chat formats write it already."""
    start = tokenizer.bos_token
    writes_start = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    return before.removeprefix(start) if start and writes_start else before
