"""What the rooms share: schemas, ports, errors, pictures, phrases, runs, the HTTP frame."""

__version__ = "0.1.0"
