"""Semantic-SAM: SAM with a vector in text space for every mask."""
