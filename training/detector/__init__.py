"""Training of the small Grounding-DINO on the small world."""
