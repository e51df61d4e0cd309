"""The benchmark of overload: its services, and the part about mask banks."""
