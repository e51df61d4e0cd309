"""`python -m worker.dispatch.dispatcher`: the process that plans, publishes and finishes runs.

It connects the dispatcher's loop (`loop`) to settings, services, Celery, metrics and signals.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from unspoken.client.port_clients import (
    CropRankerClient,
    DetectorClient,
    PrompterClient,
    TextEncoderClient,
    connect,
)
from unspoken.config.settings import run_main, start_logging
from worker.dispatch.loop import Dispatcher
from worker.dispatch.metrics import DispatcherMetrics, serve_metrics
from worker.dispatch.planning import Services
from worker.process.broker import CeleryPublisher, read_broker
from worker.process.celery_app import create_celery
from worker.process.settings import WorkerSettings


@contextmanager
def connect_services(settings: WorkerSettings) -> Iterator[Services]:
    """Open clients of the three services, and close them at the end."""
    with (
        connect(
            settings.llm_url, timeout_s=settings.service_timeout_s, key=settings.client_key
        ) as llm,
        connect(
            settings.detector_url, timeout_s=settings.service_timeout_s, key=settings.client_key
        ) as detector,
        connect(
            settings.segmenter_url, timeout_s=settings.service_timeout_s, key=settings.client_key
        ) as segmenter,
    ):
        yield Services(
            PrompterClient(llm),
            DetectorClient(detector),
            TextEncoderClient(segmenter),
            CropRankerClient(segmenter),
        )


def main() -> None:
    """Dispatch until SIGTERM or SIGINT."""
    settings = WorkerSettings()
    start_logging(settings)
    settings.runs_dir.mkdir(parents=True, exist_ok=True)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    app = create_celery(settings.broker_url)
    metrics = DispatcherMetrics(settings.runs_dir, lambda: read_broker(app))
    if settings.metrics_port:
        serve_metrics(
            metrics,
            host=settings.metrics_host,
            port=settings.metrics_port,
            allowed_hosts=settings.allowed_hosts,
        )
    with connect_services(settings) as services:
        dispatcher = Dispatcher(
            runs_dir=settings.runs_dir,
            data_dir=settings.data_dir,
            services=services,
            publisher=CeleryPublisher(app),
            lease_s=settings.lease_s,
            republish_s=settings.republish_s,
            message_s=settings.message_s,
            patience_s=settings.tick_s,
            observer=metrics,
        )
        dispatcher.run(tick_s=settings.tick_s, stop=stop)


if __name__ == "__main__":
    run_main(main)
