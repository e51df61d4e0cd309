"""The HTTP services: llm, detector, segmenter and gateway. They do not import each other."""
