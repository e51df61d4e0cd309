"""An OpenAI-compatible completions endpoint (vLLM, Ollama, TGI) in place of a model in process.

Only `POST {base_url}/completions` is used, with one prompt a request: not every server takes a
list. Servers with a prefix cache share the few-shot block by themselves.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx

from services.llm.answer_line import cut_answer
from services.llm.parsing import Answer
from unspoken.errors import Overloaded, ServiceUnavailable


class OpenAICompleter:
    """Asks the endpoint, `max_parallel` prompts at a time.

    base_url: up to and with the version, "http://host:8000/v1".
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        model: str,
        timeout_s: float,
        max_parallel: int,
        max_new_tokens: int,
    ) -> None:
        self._model = model
        self._max_new_tokens = max_new_tokens
        self._http = httpx.Client(
            base_url=base_url.rstrip("/") + "/",
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout_s, connect=5.0),
        )
        self._pool = ThreadPoolExecutor(max_parallel, thread_name_prefix="openai")

    def complete(self, suffixes: Sequence[str], *, prefix: str) -> list[Answer]:
        """See services.llm.engine.Completer. Raises ServiceUnavailable, Overloaded."""
        return list(self._pool.map(lambda suffix: self._complete(prefix + suffix), suffixes))

    def close(self) -> None:
        """End the connections."""
        self._pool.shutdown()
        self._http.close()

    def _complete(self, prompt: str) -> Answer:
        body = {
            "model": self._model,
            "prompt": prompt,
            "max_tokens": self._max_new_tokens,
            "temperature": 0,
            "stop": ["\n"],
            "logprobs": 1,
        }
        try:
            response = self._http.post("completions", json=body)
        except httpx.TimeoutException as error:
            raise ServiceUnavailable("the language model did not answer in time") from error
        except httpx.TransportError as error:
            raise ServiceUnavailable(f"the language model could not be reached: {error}") from error
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
            raise Overloaded("the language model has too many requests", retry_after_s=5.0)
        if not response.is_success:
            raise ServiceUnavailable(f"the language model answered {response.status_code}")
        return _answer_of(response)


def _answer_of(response: httpx.Response) -> Answer:
    try:
        choice = response.json()["choices"][0]
        text, _ = cut_answer(str(choice["text"]))
        logprobs = (choice.get("logprobs") or {}).get("token_logprobs") or []
        values = [float(value) for value in logprobs if value is not None]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ServiceUnavailable("the language model answered something else") from error
    return Answer(text, mean_logprob=sum(values) / len(values) if values else None)
