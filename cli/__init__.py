"""The `unspoken` command: its verbs, the stack of one machine, and the demo."""
