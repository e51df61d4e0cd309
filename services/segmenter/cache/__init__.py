"""Cached images in memory and on disk, and the mask banks built for them."""
