"""Request and reply models of the HTTP API."""
