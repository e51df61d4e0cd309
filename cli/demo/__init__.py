"""`unspoken demo`: captions in, labelled dataset out, on one machine."""
