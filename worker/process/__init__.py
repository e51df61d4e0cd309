"""The Celery worker process: tasks, heartbeat, watchdog, graceful shutdown."""
