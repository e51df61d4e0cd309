"""Benchmarks: each prints one JSON line with its figures."""
