"""The dataset that a run writes: rows, shards, manifest, card."""
