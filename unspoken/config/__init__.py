"""Settings from the environment, model profiles, weight files, API keys."""
