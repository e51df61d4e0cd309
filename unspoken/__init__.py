"""What the rooms share: schemas, ports, errors, pictures, phrases, runs, and the HTTP frame of every service."""

__version__ = "0.1.0"
