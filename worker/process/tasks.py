"""The only Celery task: labels the chunks that a message names. `attempt` has the rules.

Celery may deliver a message twice or never. Both only cost time, because the files of a run decide
which chunks are done.
"""

import logging
import secrets
import time
from collections.abc import Callable

from billiard.exceptions import SoftTimeLimitExceeded
from celery import Celery
from pydantic import ValidationError

from unspoken.client.port_clients import CropRankerClient, DetectorClient, PrompterClient, connect
from unspoken.errors import DeadlineExceeded, ModelsChanged, PlanDamaged, UnspokenError
from unspoken.logs import log_ids
from unspoken.retries import retry_after_s
from unspoken.runs.plan import LabelConfig
from unspoken.runs.worker_error import DISK, WorkerErrorRecord, write_worker_error
from unspoken.safe_text import reason_of
from worker.label.classifiers import build_classifiers
from worker.label.pipeline import SERVICE_ERRORS, Ports
from worker.process.attempt import WorkerContext, label_one_chunk
from worker.process.celery_app import LABEL_TASK, SOFT_TIME_LIMIT_S
from worker.process.graceful_shutdown import GracefulShutdown
from worker.process.message import Message
from worker.process.settings import WorkerSettings

logger = logging.getLogger(__name__)

# After this time a message starts no further chunk, because its time limit must fit one chunk.
MESSAGE_S = 240.0


def connect_context(settings: WorkerSettings, shutdown: GracefulShutdown) -> WorkerContext:
    """Build the clients of the services and the classifiers from the settings."""
    timeout_s = settings.service_timeout_s
    prompter = PrompterClient(
        connect(settings.llm_url, timeout_s=timeout_s, key=settings.client_key)
    )
    detector = DetectorClient(
        connect(settings.detector_url, timeout_s=timeout_s, key=settings.client_key)
    )
    crop_ranker = CropRankerClient(
        connect(settings.segmenter_url, timeout_s=timeout_s, key=settings.client_key)
    )

    def check_ready(config: LabelConfig) -> None:
        prompter.check_ready()
        detector.check_ready()
        if config.options.crop_check:
            crop_ranker.check_ready()

    return WorkerContext(
        runs_dir=settings.runs_dir,
        data_dir=settings.data_dir,
        lease_s=settings.lease_s,
        ports=Ports(prompter, detector, build_classifiers(), crop_ranker),
        check_ready=check_ready,
        shutdown=shutdown,
    )


def register_tasks(app: Celery, context: Callable[[], WorkerContext]) -> None:
    """Register the task with the app. `context` is called in the pool process, after the fork."""

    @app.task(name=LABEL_TASK)  # type: ignore[untyped-decorator]
    def label_chunks(run_id: object, chunk_ids: object) -> None:
        try:
            message = Message.model_validate({"run_id": run_id, "chunk_ids": chunk_ids})
        except ValidationError as error:
            logger.error("invalid message dropped: %s", error)
            return
        label_message(message, context())


def label_message(message: Message, context: WorkerContext) -> None:
    """Label the message's chunks in order, until a time limit, a shutdown or a service's error.

    The dispatcher publishes the remaining chunks again. Every attempt is recorded on disk.
    """
    until_s = time.monotonic() + MESSAGE_S
    for chunk_id in message.chunk_ids:
        if context.shutdown.is_ending or time.monotonic() > until_s:
            return
        with log_ids(run=message.run_id, chunk=chunk_id):
            if not _label_or_record(message.run_id, chunk_id, context):
                return


def _label_or_record(run_id: str, chunk_id: int, context: WorkerContext) -> bool:
    """Label one chunk; return False if an error would also affect the next chunk.

    Errors are logged. Errors of a service, the disk or a model are also recorded for the run.
    """
    try:
        label_one_chunk(run_id, chunk_id, context)
    except SoftTimeLimitExceeded:
        late = (
            f"chunk {chunk_id} was not done within {SOFT_TIME_LIMIT_S} s: add "
            "services or cores, or start a run with smaller chunks (--chunk-size)"
        )
        logger.error("time limit exceeded: %s", late)
        write_worker_error(context.runs_dir / run_id, _record_of(DeadlineExceeded(late)))
        return False
    except (*SERVICE_ERRORS, ModelsChanged, PlanDamaged, OSError) as error:
        logger.warning("attempt stopped, will be retried: %s", error)
        write_worker_error(context.runs_dir / run_id, _record_of(error))
        return False
    except (UnspokenError, MemoryError) as error:
        logger.warning("attempt failed: %s", error)
    return True


def _record_of(error: Exception) -> WorkerErrorRecord:
    return WorkerErrorRecord(
        token=secrets.token_hex(8),
        code=error.code if isinstance(error, UnspokenError) else DISK,
        message=reason_of(error),
        retry_after_s=retry_after_s(error),
    )
