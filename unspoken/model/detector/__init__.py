"""The small Grounding-DINO."""
