"""One setting selects the device of all models; a missing device fails the start."""

import pytest
import torch

from services.detector import engine as detector
from services.detector.settings import DetectorSettings
from services.llm import engine as llm
from services.llm.settings import LlmSettings
from services.segmenter import engine as text_encoder
from services.segmenter.settings import SegmenterSettings
from unspoken.compute.precision import prepare_device
from unspoken.errors import InvalidConfig

BUILDERS = [
    (llm.build_engine, LlmSettings),
    (detector.build_engine, DetectorSettings),
    (text_encoder.build_engine, SegmenterSettings),
]


def test_the_processor_is_always_there_and_float32_is_not_rounded(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    prepare_device("cpu")
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one here")
@pytest.mark.parametrize(("build", "settings"), BUILDERS)
def test_a_device_that_is_not_there_is_named_with_its_setting(build, settings):
    with pytest.raises(InvalidConfig, match=r"no device cuda:3 here.*UNSPOKEN_DEVICE"):
        build(settings(device="cuda:3"))


def test_the_setting_holds_for_every_model_of_a_profile(monkeypatch):
    monkeypatch.setenv("UNSPOKEN_DEVICE", "cuda:1")
    monkeypatch.setenv("UNSPOKEN_PROFILE", "thesis")
    profile = DetectorSettings().read_profile()
    models = (profile.llm, profile.detector, profile.text_encoder, profile.segmenter)
    assert {model.device for model in models} == {"cuda:1"}


def test_without_it_models_yaml_says_where_each_runs(monkeypatch):
    monkeypatch.delenv("UNSPOKEN_DEVICE", raising=False)
    monkeypatch.setenv("UNSPOKEN_PROFILE", "thesis")
    profile = DetectorSettings().read_profile()
    assert (profile.llm.device, profile.detector.device) == ("cuda", "cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cpu; rm"])
def test_what_is_no_device_is_no_setting(name):
    with pytest.raises(InvalidConfig, match="UNSPOKEN_DEVICE"):
        DetectorSettings(device=name)
