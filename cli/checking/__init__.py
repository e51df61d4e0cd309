"""Checks that a command makes before models load, and the lines that its mistakes print."""
