"""The command line, and the launcher and demo that run the whole stack on one machine."""
