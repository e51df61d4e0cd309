"""Models and servers that several benchmarks use."""
