"""Readers: one file a kind of source, each giving the same rows."""
