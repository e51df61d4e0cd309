"""The small world: pictures composed from emoji art, whose masks and names are exact.

It is a demonstration and a test bed for the embedded default; models trained on it know emoji art
and not photographs.
"""
