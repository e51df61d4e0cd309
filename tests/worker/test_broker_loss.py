"""A worker's connection to a broker that is lost while a message is in hand."""

from stack.embedded_redis import EmbeddedRedis
from worker.celery_app import BULK, create_celery
from worker.doorbell import CeleryDoorbell


def test_a_connection_that_forgot_its_broker_is_closed_without_ending_the_worker(tmp_path):
    with EmbeddedRedis(tmp_path) as server, create_celery(server.url) as app:
        CeleryDoorbell(app).ring("r", [1], queue=BULK)
        connection = app.connection_for_read()
        channel = connection.default_channel
        assert app.amqp.queues[BULK](channel).get(no_ack=False) is not None
        # What Celery's consumer leaves when Redis is killed, as the chaos suite saw it.
        channel._disconnect_pools()
        connection.transport.client = None
        connection.release()
        assert connection._closed
