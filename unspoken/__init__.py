"""Code that all processes share: schemas, ports, errors, pictures, phrases, the HTTP service."""

__version__ = "0.1.0"
