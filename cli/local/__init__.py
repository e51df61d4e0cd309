"""The stack of one machine: services, worker and Redis as child processes."""
