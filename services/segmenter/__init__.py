"""Texts to vectors of CLIP's text space; masks for texts come to live here as well."""
