"""From queries to masks: planning, prompts, query methods, rendering."""
