"""Datasets in the shapes that other tools load, and as a page to look at."""
