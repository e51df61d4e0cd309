"""The same prompts as a conversation: for a model that was taught to answer and not to go on.

Each worked example is a question and its answer, the instruction stands before the first. SmolLM2
copies the examples when they are one long message; as turns it answers.

The chat format is the model's own and comes with its tokenizer. What stands before the caption is
one text, so that its keys and values are kept as those of a bare prompt are.
"""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from services.llm.prompts import ExampleSet
from unspoken.errors import InvalidConfig

INSTRUCTION = "Answer with a comma-separated list only.\n\n"
_MARK = "MESSAGE"


@dataclass(frozen=True)
class ChatFrame:
    """What a conversation has before and after the question, up to where its answer begins."""

    before: str
    after: str


def chat_messages(question: str, *, examples: ExampleSet) -> list[dict[str, str]]:
    """The conversation so far, as {role, content}: the worked examples, then the question."""
    asked = [*(example.question for example in examples.examples), question]
    asked[0] = INSTRUCTION + asked[0]  # not every chat format has a system's role
    messages = [{"role": "user", "content": asked[0]}]
    for example, follow_up in zip(examples.examples, asked[1:], strict=True):
        messages.append({"role": "assistant", "content": example.answer})
        messages.append({"role": "user", "content": follow_up})
    return messages


def check_chat_format(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise InvalidConfig where a tokenizer has no chat format, or one that drops the question."""
    if not tokenizer.chat_template:
        raise InvalidConfig(
            f"{tokenizer.name_or_path} has no chat format; ask it with LLM_PROMPT_STYLE=completion"
        )
    chat_frame(tokenizer, examples=ExampleSet((), separator=""))


def chat_frame(tokenizer: PreTrainedTokenizerBase, *, examples: ExampleSet) -> ChatFrame:
    """The frame around a question behind these examples. Raises InvalidConfig as above."""
    rendered = tokenizer.apply_chat_template(
        chat_messages(_MARK, examples=examples), tokenize=False, add_generation_prompt=True
    )
    before, mark, after = str(rendered).rpartition(_MARK)
    if not mark:
        raise InvalidConfig(f"{tokenizer.name_or_path}: its chat format drops the user's message")
    return ChatFrame(_without_second_start(before, tokenizer), after)


def _without_second_start(before: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Some formats write the start token, which the tokenizer then writes once more."""
    start = tokenizer.bos_token
    writes_start = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    return before.removeprefix(start) if start and writes_start else before
