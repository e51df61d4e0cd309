"""The segmenter of a command: behind a URL, or in this process."""

from collections.abc import Iterator
from contextlib import contextmanager

from cli.checking.stack import check_models
from cli.gateway import client_key
from services.segmenter.settings import SegmenterSettings
from unspoken.client.port_clients import SegmenterClient, connect
from unspoken.errors import Conflict, Unreachable
from unspoken.ports import Segmenter


@contextmanager
def open_segmenter(url: str | None) -> Iterator[Segmenter]:
    """Provide the segmenter at a URL (its own or a gateway's); without a URL, load one here."""
    if url is None:
        with local_segmenter(SegmenterSettings()) as segmenter:
            yield segmenter
        return
    try:
        with connect(url, key=client_key()) as http:
            yield SegmenterClient(http)
    except Unreachable as error:
        raise Unreachable(f"{error.message}. `unspoken up` starts one") from error


@contextmanager
def local_segmenter(
    settings: SegmenterSettings, *, with_detector: bool = True
) -> Iterator[Segmenter]:
    """Load the profile's models into this process. Raises Conflict if the profile has none.

    with_detector: also load the detector, unless the settings name a detector service.
    """
    if settings.read_profile().segmenter is None and settings.weights is None:
        raise Conflict(
            f"the profile {settings.profile} has no segmenter: choose another "
            "(UNSPOKEN_PROFILE), or set SEGMENTER_WEIGHTS"
        )
    needs_detector = with_detector and settings.detector_url is None
    check_models(segmenter=settings, with_detector=needs_detector)
    # Imported here, because only this function needs torch and the models.
    from services.detector.engine import build_engine as build_detector
    from services.detector.settings import DetectorSettings
    from services.segmenter.engine import build_engine as build_text_encoder
    from services.segmenter.loading import build_segmenter
    from services.segmenter.local_segmenter import LocalSegmenter

    detector = build_detector(DetectorSettings()) if needs_detector else None
    engine = build_segmenter(settings, build_text_encoder(settings), detector=detector)
    assert engine is not None, "the profile or the settings name weights"
    with LocalSegmenter(engine) as segmenter:
        yield segmenter
