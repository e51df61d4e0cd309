"""Exports of a dataset to formats that other tools load, and to an HTML report.

A format is one module here, with a function that writes files and returns counts, and one command
in `cli/verbs/datasets.py`.
"""
