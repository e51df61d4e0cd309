"""The gateway service: labelling runs over HTTP, and a reverse proxy to the segmenter."""
