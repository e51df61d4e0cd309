"""Caption to phrases: a language model says what a caption names and what it leaves unspoken."""
