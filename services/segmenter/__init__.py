"""Pictures and queries to masks; texts to vectors of CLIP's text space."""
