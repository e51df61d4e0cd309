"""Workers label chunks of a run through the services; the dispatcher keeps them rung."""
