"""Captions, phrases and the lexicon."""
