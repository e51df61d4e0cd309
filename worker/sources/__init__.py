"""Readers of sources: one module for each kind of source, and every kind gives the same rows.

`intake` chooses the reader by the kind of file; `tables.tables` chooses the format of a table.
"""
