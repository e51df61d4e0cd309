"""Networks of Unspoken and their weights; the only package of `unspoken` that imports torch."""
