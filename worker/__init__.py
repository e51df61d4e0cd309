"""Workers label chunks of a run through the services; the dispatcher publishes open chunks."""
