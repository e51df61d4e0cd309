"""Experiments that test claims of the thesis with controls; each writes figures, a table, plots."""
