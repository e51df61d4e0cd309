"""The segmenter service: masks for an image and queries, and CLIP vectors for texts."""
