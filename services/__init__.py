"""The HTTP services: llm, detector, segmenter, gateway. They do not import each other."""
