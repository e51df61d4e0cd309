"""Exports of a dataset to formats that other tools load, and to an HTML report."""
