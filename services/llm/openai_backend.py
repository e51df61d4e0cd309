"""A completer that calls an OpenAI-compatible endpoint (vLLM, Ollama, TGI).

`POST {base_url}/completions` continues a text; `POST {base_url}/chat/completions` answers a
message. Each request has one prompt, because not every server accepts a list. A server with a
prefix cache reuses the few-shot block by itself.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from services.llm.chat import chat_messages
from services.llm.parsing import Completion, cut_completion
from services.llm.prompts import ExampleSet
from services.llm.settings import PromptStyle
from unspoken.client.http_error import parse_retry_after
from unspoken.config.proxies import uses_proxies
from unspoken.errors import Overloaded, ServiceUnavailable
from unspoken.safe_text import reason_of


class OpenAICompleter:
    """Completer port over an endpoint; sends at most `max_parallel` prompts at once.

    base_url: the URL up to and including the version, "http://host:8000/v1".
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        model: str,
        prompt_style: PromptStyle,
        timeout_s: float,
        max_parallel: int,
        max_new_tokens: int,
    ) -> None:
        self._model = model
        self._prompt_style = prompt_style
        self._max_new_tokens = max_new_tokens
        self._http = httpx.Client(
            base_url=base_url.rstrip("/") + "/",
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout_s, connect=5.0),
            trust_env=uses_proxies(base_url),
            # The endpoint's certificate may come from a private authority.
            verify=httpx.create_ssl_context(),
        )
        self._pool = ThreadPoolExecutor(max_parallel, thread_name_prefix="openai")

    def complete(self, questions: Sequence[str], *, examples: ExampleSet) -> list[Completion]:
        """See services.llm.engine.Completer. Raises ServiceUnavailable, Overloaded."""
        return list(self._pool.map(lambda question: self._complete(question, examples), questions))

    def close(self) -> None:
        """Close the thread pool and the connections."""
        self._pool.shutdown()
        self._http.close()

    def _complete(self, question: str, examples: ExampleSet) -> Completion:
        match self._prompt_style:
            case "completion":
                prompt = examples.prefix + question
                return _answer_of(self._post("completions", prompt=prompt, logprobs=1), _continued)
            case "chat":
                messages = chat_messages(question, examples=examples)
                response = self._post("chat/completions", messages=messages, logprobs=True)
                return _answer_of(response, _replied)

    def _post(self, path: str, **question: object) -> httpx.Response:
        body = {
            "model": self._model,
            "max_tokens": self._max_new_tokens,
            "temperature": 0,
            "stop": ["\n"],
            **question,
        }
        try:
            response = self._http.post(path, json=body)
        except httpx.TimeoutException as error:
            raise ServiceUnavailable("the language model did not answer in time") from error
        except httpx.TransportError as error:
            raise ServiceUnavailable(
                f"the language model could not be reached: {reason_of(error)}"
            ) from error
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
            header = response.headers.get("Retry-After")
            raise Overloaded(
                "the language model has too many requests",
                retry_after_s=parse_retry_after(header, default_s=5.0),
            )
        if not response.is_success:
            raise ServiceUnavailable(f"the language model answered {response.status_code}")
        return response


def _continued(choice: dict[str, Any]) -> tuple[str, list[float | None]]:
    """Return the text and the log-probabilities of a completion."""
    logprobs = choice.get("logprobs") or {}
    return str(choice["text"]), logprobs.get("token_logprobs") or []


def _replied(choice: dict[str, Any]) -> tuple[str, list[float | None]]:
    """Return the text and the log-probabilities of a chat message; a missing text is empty."""
    tokens = (choice.get("logprobs") or {}).get("content") or []
    return choice["message"]["content"] or "", [token["logprob"] for token in tokens]


def _answer_of(
    response: httpx.Response, read: Callable[[dict[str, Any]], tuple[str, list[float | None]]]
) -> Completion:
    try:
        text, logprobs = read(response.json()["choices"][0])
        answer, _ = cut_completion(text)
        values = [float(value) for value in logprobs if value is not None]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ServiceUnavailable("the language model returned an invalid reply") from error
    return Completion(answer, mean_logprob=sum(values) / len(values) if values else None)
