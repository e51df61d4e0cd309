"""The completions endpoint against a small server on loopback."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from services.llm.openai_backend import OpenAICompleter
from services.llm.prompts import Example, ExampleSet
from services.llm.settings import LlmSettings, PromptStyle
from unspoken.errors import InvalidConfig, Overloaded, ServiceUnavailable

EXAMPLES = ExampleSet((Example("q", "Q:", "a"),), separator="\n")


class _Endpoint(BaseHTTPRequestHandler):
    reply: tuple[int, bytes] = (200, b"")
    headers_of_reply: dict[str, str] = {}
    seen: list[dict] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append({"path": self.path, "key": self.headers["Authorization"], **body})
        status, content = self.reply
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in self.headers_of_reply.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        return


@contextmanager
def serving() -> Iterator[tuple[type[_Endpoint], int]]:
    """A server on loopback -> its handler and port."""
    handler = type("Endpoint", (_Endpoint,), {"seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield handler, server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def completer_at(base_url: str, *, prompt_style: PromptStyle = "completion") -> OpenAICompleter:
    return OpenAICompleter(
        base_url=base_url,
        api_key="secret",
        model="tiny",
        prompt_style=prompt_style,
        timeout_s=10,
        max_parallel=2,
        max_new_tokens=48,
    )


@pytest.fixture(params=["completion"])
def endpoint(request):
    with serving() as (handler, port):
        completer = completer_at(f"http://127.0.0.1:{port}/v1", prompt_style=request.param)
        yield handler, completer
        completer.close()


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize(
    ("host", "by_proxy"), [("127.0.0.1", False), ("localhost", False), ("llm.example.com", True)]
)
def test_only_an_endpoint_outside_of_the_local_network_is_asked_by_the_proxy(
    monkeypatch, variable, host, by_proxy
):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with serving() as (asked, port), serving() as (proxy, proxy_port):
        for handler in (asked, proxy):
            handler.reply = (200, json.dumps({"choices": [{"text": " car"}]}).encode())
        monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy_port}")
        completer = completer_at(f"http://{host}:{port}/v1")
        answers = completer.complete(["A:"], examples=EXAMPLES)
        completer.close()
    assert answers[0].text == "car"
    assert (len(proxy.seen), len(asked.seen)) == ((1, 0) if by_proxy else (0, 1))


def test_each_prompt_is_completed_and_cut(endpoint):
    handler, completer = endpoint
    choice = {"text": " car, wheel, car, car", "logprobs": {"token_logprobs": [-1.0, -3.0, None]}}
    handler.reply = (200, json.dumps({"choices": [choice]}).encode())
    answers = completer.complete(["A:", "B:"], examples=EXAMPLES)
    assert [answer.text for answer in answers] == ["car, wheel, car, car"[:10]] * 2
    assert answers[0].mean_logprob == -2.0
    assert sorted(seen["prompt"] for seen in handler.seen) == ["Q: a\nA:", "Q: a\nB:"]
    assert handler.seen[0]["path"] == "/v1/completions"
    assert handler.seen[0]["key"] == "Bearer secret"
    assert handler.seen[0]["temperature"] == 0


@pytest.mark.parametrize("endpoint", ["chat"], indirect=True)
def test_an_instruct_model_gets_each_prompt_as_a_conversation(endpoint):
    handler, completer = endpoint
    choice = {
        "message": {"role": "assistant", "content": "car, wheel\nHope it helps"},
        "logprobs": {"content": [{"token": "car", "logprob": -1.0}, {"logprob": -2.0}]},
    }
    handler.reply = (200, json.dumps({"choices": [choice]}).encode())
    (answer,) = completer.complete(["A:"], examples=EXAMPLES)
    assert (answer.text, answer.mean_logprob) == ("car, wheel", -1.5)
    assert handler.seen[0]["path"] == "/v1/chat/completions"
    assert handler.seen[0]["messages"] == [
        {"role": "user", "content": "Answer with a comma-separated list only.\n\nQ:"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "A:"},
    ]


@pytest.mark.parametrize("endpoint", ["chat"], indirect=True)
@pytest.mark.parametrize(
    ("message", "text"), [({"content": None}, ""), ({"content": "car"}, "car")]
)
def test_a_message_without_text_or_log_probabilities_is_an_answer(endpoint, message, text):
    handler, completer = endpoint
    handler.reply = (200, json.dumps({"choices": [{"message": message}]}).encode())
    (answer,) = completer.complete(["A:"], examples=EXAMPLES)
    assert (answer.text, answer.mean_logprob) == (text, None)


@pytest.mark.parametrize("endpoint", ["chat"], indirect=True)
@pytest.mark.parametrize("choice", [{}, {"message": None}, {"message": {}}, {"text": "car"}])
def test_a_reply_that_is_no_message_has_a_name(endpoint, choice):
    handler, completer = endpoint
    handler.reply = (200, json.dumps({"choices": [choice]}).encode())
    with pytest.raises(ServiceUnavailable, match="invalid reply"):
        completer.complete(["A:"], examples=EXAMPLES)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ((500, b"oops"), ServiceUnavailable),
        ((401, b"{}"), ServiceUnavailable),
        ((429, b"{}"), Overloaded),
        ((200, b"not json"), ServiceUnavailable),
        ((200, b'{"choices": []}'), ServiceUnavailable),
        ((200, b'{"choices": [{"text": "a", "logprobs": 3}]}'), ServiceUnavailable),
    ],
)
def test_what_the_endpoint_does_wrong_has_a_name(endpoint, reply, error):
    handler, completer = endpoint
    handler.reply = reply
    with pytest.raises(error):
        completer.complete(["A:"], examples=EXAMPLES)


def test_an_endpoint_that_is_too_busy_is_called_again_when_its_retry_after_says(endpoint):
    handler, completer = endpoint
    handler.reply, handler.headers_of_reply = (429, b"{}"), {"Retry-After": "17"}
    with pytest.raises(Overloaded) as raised:
        completer.complete(["A:"], examples=EXAMPLES)
    assert raised.value.retry_after_s == 17


def test_an_endpoint_that_is_not_there_is_unavailable():
    completer = OpenAICompleter(
        base_url="http://127.0.0.1:9/v1",
        api_key="",
        model="tiny",
        prompt_style="completion",
        timeout_s=5,
        max_parallel=1,
        max_new_tokens=8,
    )
    with pytest.raises(ServiceUnavailable, match="reached"):
        completer.complete(["A:"], examples=EXAMPLES)
    completer.close()


def test_the_openai_backend_needs_its_address():
    with pytest.raises(InvalidConfig, match="LLM_OPENAI_BASE_URL"):
        LlmSettings(backend="openai")
