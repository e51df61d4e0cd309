"""Evaluation of a Semantic-SAM: names of its masks, the masks themselves, and text queries."""
