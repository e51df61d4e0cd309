"""The benchmark of a CUDA device: tests and times every network against the CPU."""
