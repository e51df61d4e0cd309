"""Labelling: from rows with captions to rows with boxes."""
