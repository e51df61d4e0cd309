"""Networks of Unspoken and their weights; the only room of `unspoken` that imports torch."""
