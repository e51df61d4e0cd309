"""A detector that waits for a language model: two services on one inference thread, over HTTP."""

import threading
from collections.abc import Iterator

import pytest

from services.detector.app import create_app as detector_app
from services.llm.app import create_app as llm_app
from tests.fakes import FakeDetector, FakePrompter
from tests.serving import ready_client
from tests.worker.source_files import picture
from unspoken.client.port_clients import DetectorClient, PrompterClient
from unspoken.http.batching import InferenceThread
from unspoken.imaging.images import decode_picture
from unspoken.timings import Timings

LONG_S = 0.6


@pytest.fixture
def thread() -> Iterator[InferenceThread]:
    thread = InferenceThread(name="shared")
    yield thread
    thread.close()


def test_a_detector_is_not_blamed_for_its_wait_behind_the_language_model(thread):
    warm, in_work, answer = threading.Event(), threading.Event(), threading.Event()

    def think(_captions):
        if warm.is_set():
            in_work.set()
            answer.wait(10)

    with (
        ready_client(llm_app(FakePrompter(before=think), thread=thread)) as llm,
        ready_client(detector_app(FakeDetector(), thread=thread)) as detector,
    ):
        warm.set()
        prompts, timings = Timings(), Timings()

        def ask() -> None:
            with prompts.asking("prompt"):
                PrompterClient(llm).propose(["a dog"])

        asking = threading.Thread(target=ask)
        asking.start()
        assert in_work.wait(10)
        threading.Timer(LONG_S, answer.set).start()
        with timings.asking("detect"):
            DetectorClient(detector).detect(decode_picture(picture(1)), ["dog"])
        asking.join()
    stages = timings.stages_ms()
    assert stages["detect_wait"] >= 0.8 * 1000 * LONG_S > stages["detect"]
    assert (
        prompts.stages_ms()["prompt"] >= 1000 * LONG_S > prompts.stages_ms().get("prompt_wait", 0)
    )
