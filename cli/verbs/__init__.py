"""The commands of `unspoken`, by noun. `cli.lazy` imports a module when its command runs."""
