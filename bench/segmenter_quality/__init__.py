"""The benchmark of the small Semantic-SAM's quality, and the training of its controls."""
