"""The small world: pictures composed from emoji art, with exact masks and labels.

It is a demonstration and a test bed for the embedded default. Models trained on it recognise emoji
art, not photographs.
"""
