"""The dispatcher: plans runs, publishes messages for open chunks, finishes datasets."""
