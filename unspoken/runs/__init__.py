"""Labelling runs on disk: the request, the plan, the ledger of work, shards, manifest and card."""
