"""Readers of sources: one module for each kind of source, all yielding the same type of row."""
