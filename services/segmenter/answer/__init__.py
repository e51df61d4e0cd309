"""From queries to masks: prompts, query methods, selection, rendering."""
