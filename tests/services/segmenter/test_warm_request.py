"""Number of files that a reader of one warm request has to open."""

import base64
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from services.segmenter.app import create_app
from services.segmenter.engine import build_engine
from services.segmenter.loading import build_segmenter
from services.segmenter.settings import SegmenterSettings
from tests.contracts import picture_bytes
from tests.entered_files import EnteredFiles
from tests.serving import ready_client
from unspoken.http import app as http_app

MAX_FILES = 11


@pytest.fixture
def entered_files(monkeypatch):
    recorder = EnteredFiles()
    threading.setprofile(recorder)  # only for threads that start from now on
    with ThreadPoolExecutor(2) as pool:
        monkeypatch.setattr(http_app, "_decode_pool", pool)
        yield recorder
    threading.setprofile(None)


def test_a_warm_request_enters_at_most_11_files(entered_files):
    settings = SegmenterSettings(bank_points_per_side=4)
    text_encoder = build_engine(settings)
    app = create_app(text_encoder, segmenter=build_segmenter(settings, text_encoder))

    @app.post("/empty")
    async def answer_nothing() -> None:
        """Answer without any work, so that only the common middleware runs."""

    with ready_client(app) as client:
        image = {"base64": base64.b64encode(picture_bytes()).decode()}
        image_id = client.post("/images", json={"image": image}).json()["id"]
        body = {"image": {"id": image_id}, "queries": [{"text": "car"}]}
        client.post("/segment", json=body)  # builds the bank and encodes the text

        def send(path: str) -> None:
            assert client.post(path, json=body).status_code == 200

        middleware = entered_files.during(lambda: send("/empty"))
        own = entered_files.during(lambda: send("/segment")) - middleware
    assert "unspoken/http/admission.py" in middleware
    assert "services/segmenter/segment_flow.py" in own
    assert len(own) <= MAX_FILES, sorted(own)
