"""Detector and segmenter on one inference thread, as on a laptop, without a deadlock."""

import base64
from concurrent.futures import ThreadPoolExecutor

from services.detector.app import create_app as detector_app
from services.segmenter.app import create_app as segmenter_app
from tests.contracts import picture_bytes
from tests.fakes import FakeDetector, FakeTextEncoder
from tests.services.segmenter.tiny import tiny_engine
from tests.serving import ready_client
from tests.worker.service import serve
from unspoken.client.port_clients import DetectorClient, connect
from unspoken.http.batching import InferenceThread

NUM_REQUESTS = 16


def test_many_text_queries_by_the_detector_of_the_same_process_all_come_back():
    thread = InferenceThread(name="shared")
    detector = FakeDetector()
    with serve(detector_app(detector, thread=thread)) as url, connect(url) as http:
        engine = tiny_engine(detector=DetectorClient(http))
        app = segmenter_app(FakeTextEncoder(), segmenter=engine, thread=thread)
        with ready_client(app) as client, ThreadPoolExecutor(NUM_REQUESTS) as pool:

            def ask(number: int) -> str:
                picture = picture_bytes(size=(96 + number, 64))
                body = {
                    "image": {"base64": base64.b64encode(picture).decode()},
                    "queries": [{"text": "car"}, {"text": "wheel", "threshold": 0}],
                }
                reply = client.post("/segment", json=body)
                assert reply.status_code == 200, reply.text
                assert reply.json()["results"][1]["instances"]
                return str(reply.json()["method"])

            assert set(pool.map(ask, range(NUM_REQUESTS))) == {"detector"}
