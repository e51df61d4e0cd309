"""Services over fakes for the requests that README and docs show."""

import shutil
from contextlib import ExitStack

import pytest

from services.detector.app import create_app as detector_app
from services.llm.app import create_app as llm_app
from services.segmenter.app import create_app as segmenter_app
from tests.fakes import (
    FakeCropRanker,
    FakeDetector,
    FakePrompter,
    FakeSegmenter,
    FakeTextEncoder,
)
from tests.served_stack import served_stack, worked_off
from tests.test_tree import ROOT
from tests.worker.service import serve
from unspoken.config.services import DETECTOR, GATEWAY, LLM, SEGMENTER


@pytest.fixture
def urls(tmp_path):
    """Run services over fakes, and a gateway whose runs are processed; yield port -> service."""
    (tmp_path / "data/shards").mkdir(parents=True)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    shutil.copy(ROOT / "examples" / "street.jpg", tmp_path)
    segmenter = FakeSegmenter()
    with ExitStack() as opened:
        stack = opened.enter_context(served_stack(tmp_path, segmenter=segmenter))
        opened.enter_context(worked_off(stack.runs_dir, failed={"engine_failure": 1}))
        services = {
            LLM.port: llm_app(FakePrompter()),
            DETECTOR.port: detector_app(FakeDetector()),
            SEGMENTER.port: segmenter_app(
                FakeTextEncoder(), segmenter=segmenter, ranker=FakeCropRanker()
            ),
        }
        yield {
            GATEWAY.port: stack.url,
            **{port: opened.enter_context(serve(app)) for port, app in services.items()},
        }
