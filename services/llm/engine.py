"""The prompter: sends the prompts of each template to a language model and parses the answers.

Answers are kept in an LRU cache by template and prompt. So a repeated caption, or a noun that
occurs in several captions, needs only one answer.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from cachetools import LRUCache
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from services.llm.chat import ChatFrame, chat_frame, check_chat_format
from services.llm.generator import Generator
from services.llm.openai_backend import OpenAICompleter
from services.llm.parsing import Completion, TemplateCompletion, build_proposal
from services.llm.prompts import ExampleSet, Template, choose_templates, prompt_sha256
from services.llm.settings import LlmSettings, PromptStyle
from services.llm.smollm2 import converted_smollm2
from services.llm.template_file import load_templates
from unspoken.compute.precision import compute_dtype, prepare_device
from unspoken.config.model_folders import CONFIG_FILE, check_model_type
from unspoken.config.profiles import ModelEntry, resolve_files
from unspoken.errors import InvalidConfig
from unspoken.text.captions import caption_nouns
from unspoken.text.lexicon import STUFF, Lexicon, load_lexicon
from unspoken.text.phrases import parse_phrases
from unspoken.wire.base import ModelInfo
from unspoken.wire.proposals import Proposal

MAX_NOUNS = 6

logger = logging.getLogger(__name__)


class Completer(Protocol):
    """Port of a language model that answers questions in one line, after worked examples."""

    def complete(self, questions: Sequence[str], *, examples: ExampleSet) -> list[Completion]:
        """Return one answer per question, in order."""


class TransformersCompleter:
    """A Hugging Face causal model in this process.

    Raises InvalidConfig if the prompt style is chat and the tokenizer has no usable chat format.
    """

    def __init__(self, generator: Generator, *, prompt_style: PromptStyle) -> None:
        if prompt_style == "chat":
            check_chat_format(generator.tokenizer)
        self._generator = generator
        self._prompt_style = prompt_style

    def complete(self, questions: Sequence[str], *, examples: ExampleSet) -> list[Completion]:
        """See Completer."""
        match self._prompt_style:
            case "completion":
                frame = ChatFrame(before=examples.prefix, after="")
            case "chat":
                frame = chat_frame(self._generator.tokenizer, examples=examples)
        suffixes = [question + frame.after for question in questions]
        generations = self._generator.generate(suffixes, prefix=frame.before)
        return [
            Completion(g.text, mean_logprob=round(g.mean_logprob, 4), num_tokens=len(g.tokens))
            for g in generations
        ]


class PrompterEngine:
    """Prompter port over a completer. Not thread-safe: call it on the inference thread only."""

    def __init__(
        self,
        completer: Completer,
        *,
        model: ModelInfo,
        templates: Mapping[str, Template],
        default_templates: Sequence[str],
        lexicon: Lexicon,
        prompt_style: PromptStyle = "completion",
        cache_entries: int = 4096,
    ) -> None:
        choose_templates(default_templates, known=templates, default=())
        self.model = model
        self.tokens_written: Counter[str] = Counter()
        """Number of tokens in all answers so far, by template; 0 if the completer counts none."""
        self._completer = completer
        self._templates = templates
        self._default_templates = tuple(default_templates)
        self._lexicon = lexicon
        self._prompt_style = prompt_style
        self._copyable = {
            template.name: [
                example_phrases(examples, lexicon) if template.drop_copies else frozenset()
                for examples in template.example_sets
            ]
            for template in templates.values()
        }
        self._completions: LRUCache[tuple[str, str], Completion] = LRUCache(cache_entries)

    def propose(
        self, captions: Sequence[str], *, templates: Sequence[str] | None = None
    ) -> list[Proposal]:
        """See unspoken.ports.Prompter."""
        chosen = choose_templates(templates, known=self._templates, default=self._default_templates)
        completions: dict[str, list[TemplateCompletion]] = {caption: [] for caption in captions}
        for template in sorted(chosen, key=lambda template: template.asks_about_nouns):
            subjects = {
                caption: self._nouns(caption, completions[caption])
                if template.asks_about_nouns
                else [caption]
                for caption in completions
            }
            answered = self._ask(template, (s for group in subjects.values() for s in group))
            for caption, group in subjects.items():
                completions[caption] += [
                    self._template_completion(template, subject, answered[subject])
                    for subject in group
                ]
        asked = {"prompt_sha256": prompt_sha256(chosen, style=self._prompt_style)}
        proposals = {
            caption: build_proposal(
                caption, given, model=self.model.name, lexicon=self._lexicon
            ).model_copy(update=asked)
            for caption, given in completions.items()
        }
        return [proposals[caption] for caption in captions]

    def _template_completion(
        self, template: Template, subject: str, completion: Completion
    ) -> TemplateCompletion:
        example_set = template.example_set_of(subject)
        return TemplateCompletion(
            template.name,
            completion,
            noun=subject if template.asks_about_nouns else None,
            example_set=example_set,
            copyable=self._copyable[template.name][example_set],
        )

    def _nouns(self, caption: str, completions: Sequence[TemplateCompletion]) -> list[str]:
        """Return the nouns to ask parts of: those of the caption, and the first of each answer.

        An answer's first phrase adds the common noun for a proper name: "car" for "Mustang".
        """
        nouns = [noun for noun in caption_nouns(caption, self._lexicon) if noun not in STUFF]
        for answered in completions:
            parsed = parse_phrases(answered.completion.text, template="", lexicon=self._lexicon)
            nouns += [
                phrase.text
                for phrase in parsed.phrases[:1]
                if not phrase.stuff and phrase.text not in answered.copyable
            ]
        # Ask about "tabby cat" only, not also about "cat".
        compounds = {noun.split(" ")[-1] for noun in nouns if " " in noun}
        return [noun for noun in dict.fromkeys(nouns) if noun not in compounds][:MAX_NOUNS]

    def _ask(self, template: Template, subjects: Iterable[str]) -> dict[str, Completion]:
        """Return the answer for each subject; ask the model only for answers not in the cache."""
        questions = {subject: template.question(subject) for subject in subjects}
        known = {
            question: self._completions[template.name, question]
            for question in dict.fromkeys(questions.values())
            if (template.name, question) in self._completions
        }
        # Question -> example set. Subjects with the same question have the same example set.
        new = {
            question: template.example_set_of(subject)
            for subject, question in questions.items()
            if question not in known
        }
        for index, examples in enumerate(template.example_sets):
            asked = [question for question, example_set in new.items() if example_set == index]
            if asked:
                completed = self._completer.complete(asked, examples=examples)
                known.update(zip(asked, completed, strict=True))
                self.tokens_written[template.name] += sum(a.num_tokens for a in completed)
        if self._completions.maxsize:
            self._completions.update(((template.name, text), known[text]) for text in new)
        return {subject: known[question] for subject, question in questions.items()}


def example_phrases(examples: ExampleSet, lexicon: Lexicon) -> frozenset[str]:
    """Return the phrases that a model could copy from the examples' subjects and answers."""
    answered = [
        phrase.text
        for example in examples.examples
        for phrase in parse_phrases(example.answer, template="", lexicon=lexicon).phrases
    ]
    named = [
        noun for example in examples.examples for noun in caption_nouns(example.subject, lexicon)
    ]
    return frozenset([*answered, *named])


def load_generator(
    entry: ModelEntry, *, cache_dir: Path, max_batch: int = 8, max_new_tokens: int = 48
) -> Generator:
    """Load the Hugging Face causal model that a profile names; a GGUF is converted first.

    Raises MissingWeights with the name of a missing file. Raises InvalidConfig if the device is
    not available, or if the folder contains another kind of model.
    """
    prepare_device(entry.device)
    folder = resolve_files(entry, cache_dir=cache_dir)
    gguf_files = [name for name in entry.files if name.endswith(".gguf")]
    if gguf_files:
        folder = converted_smollm2(folder / gguf_files[0], cache_dir=cache_dir)
    model, tokenizer = _load_causal_model(
        folder, dtype=compute_dtype(entry.dtype, device=entry.device)
    )
    logger.info("loaded llm=%s device=%s dtype=%s", entry.name, entry.device, entry.dtype)
    return Generator(
        model.to(entry.device).eval(),
        tokenizer,
        max_batch=max_batch,
        max_new_tokens=max_new_tokens,
    )


def _load_causal_model(
    folder: Path, *, dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the model and the tokenizer of a folder. Raises MissingWeights, InvalidConfig."""
    supported = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys()
    check_model_type(folder, supported=supported, role="language model")
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InvalidConfig(
            f"{folder} contains no language model of transformers: {error}"
        ) from error
    if absent := sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"]))):
        raise InvalidConfig(f"the weights in {folder} do not fit its {CONFIG_FILE}: {absent[:8]}")
    return model, tokenizer


def build_engine(settings: LlmSettings) -> PrompterEngine:
    """Build the prompter that the settings name. Raises MissingWeights, InvalidConfig."""
    templates = load_templates(settings.templates_file)
    # Checked before the model loads.
    choose_templates(settings.templates, known=templates, default=())
    match settings.backend:
        case "transformers":
            completer, model = _transformers_completer(settings)
        case "openai":
            completer, model = _openai_completer(settings)
    return PrompterEngine(
        completer,
        model=model,
        templates=templates,
        default_templates=settings.templates,
        lexicon=load_lexicon(),
        prompt_style=settings.prompt_style,
        cache_entries=settings.cache_entries,
    )


def _transformers_completer(settings: LlmSettings) -> tuple[Completer, ModelInfo]:
    entry = settings.read_profile().llm
    generator = load_generator(
        entry,
        cache_dir=settings.cache_dir,
        max_batch=settings.max_batch,
        max_new_tokens=settings.max_new_tokens,
    )
    model = ModelInfo(name=entry.name, kind="llm", revision=entry.revision, device=entry.device)
    return TransformersCompleter(generator, prompt_style=settings.prompt_style), model


def _openai_completer(settings: LlmSettings) -> tuple[Completer, ModelInfo]:
    completer = OpenAICompleter(
        base_url=settings.openai_base_url,
        api_key=settings.openai_api_key.get_secret_value(),
        model=settings.openai_model,
        prompt_style=settings.prompt_style,
        timeout_s=settings.openai_timeout_s,
        max_parallel=settings.max_batch,
        max_new_tokens=settings.max_new_tokens,
    )
    model = ModelInfo(name=settings.openai_model, kind="llm", revision="unknown", device="remote")
    return completer, model
