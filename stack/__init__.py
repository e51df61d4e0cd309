"""The whole stack on one machine: the command line, the launcher, the embedded Redis, the demo."""
