"""A test stage with dispatcher and task on real folders; the broker is a list in memory."""

from contextlib import suppress
from dataclasses import dataclass, field

from tests.fakes import FakeCropRanker, FakeDetector, FakePrompter, FakeTextEncoder
from tests.worker.source_files import CAPTIONS, write_shard
from unspoken.errors import NotReady
from unspoken.runs.dataset.shards import iter_rows
from unspoken.runs.ledger import Ledger
from unspoken.runs.store import create_run, read_status
from unspoken.wire.runs import RunRequest
from worker.dispatch.loop import Dispatcher
from worker.dispatch.planning import Services
from worker.label.classifiers import Classifiers
from worker.label.pipeline import Ports
from worker.process.attempt import WorkerContext
from worker.process.message import Message
from worker.process.tasks import label_message

CLASSIFIERS = Classifiers(detect_language=lambda text: {"en": 0.9}, score_safety=lambda p: 0.01)


@dataclass
class ListPublisher:
    """A queue in memory; with `lost` it discards messages, with `down` it refuses them."""

    messages: list = field(default_factory=list)
    published: list = field(default_factory=list)
    lost: bool = False
    down: bool = False

    def publish(self, run_id, chunk_ids, *, queue):
        self.published += chunk_ids
        if not self.lost:
            self.messages.append((run_id, chunk_ids, queue))

    def num_queued(self, queue):
        if self.down:
            raise ConnectionError("no broker")
        return sum(message[2] == queue for message in self.messages)


class Stage:
    """A data folder with a shard, a dispatcher, and a worker that takes its messages."""

    def __init__(self, folder, *, prompter=None, detector=None, text_encoder=None, ranker=None):
        self.data_dir, self.runs_dir = folder / "data", folder / "runs"
        self.seen_data_dir = self.data_dir
        write_shard(self.data_dir / "in/00000.tar", CAPTIONS)
        self.time_s = 0.0
        self.publisher = ListPublisher()
        self.ports = Ports(
            prompter or FakePrompter(),
            detector or FakeDetector(),
            CLASSIFIERS,
            ranker or FakeCropRanker(),
        )
        self.text_encoder = text_encoder or FakeTextEncoder()
        self.ready = True
        self.dispatcher = self.new_dispatcher()

    def new_dispatcher(self, **options):
        services = Services(
            self.ports.prompter, self.ports.detector, self.text_encoder, self.ports.crop_ranker
        )
        return Dispatcher(
            runs_dir=self.runs_dir,
            data_dir=self.seen_data_dir,
            services=services,
            publisher=self.publisher,
            lease_s=0.2,
            clock=lambda: self.time_s,
            **options,
        )

    def check_ready(self, config):
        if not self.ready:
            raise NotReady("loading")

    def create(self, **what):
        request = RunRequest(source="in", run_id="r", chunk_size=4, **what)
        return create_run(self.data_dir, self.runs_dir, request)

    def worker_context(self, *, lease_s=0.2):
        return WorkerContext(
            self.runs_dir, self.seen_data_dir, lease_s, self.ports, self.check_ready
        )

    def work(self):
        """Process all messages; an exception ends only its attempt."""
        context = self.worker_context()
        while self.publisher.messages:
            run_id, chunk_ids, _ = self.publisher.messages.pop(0)
            with suppress(KeyError):  # as good as dead
                label_message(Message(run_id=run_id, chunk_ids=chunk_ids), context)

    def tick(self, count=1, *, run_id="r"):
        for _ in range(count):
            self.dispatcher.tick()
            self.work()
            self.time_s += 11.0
        return read_status(self.runs_dir, run_id)

    def rows(self, run_id="r"):
        return list(iter_rows(self.runs_dir / run_id / "dataset"))

    @property
    def ledger(self):
        return Ledger(self.runs_dir / "r", lease_s=0.2)
