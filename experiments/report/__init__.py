"""Output files of an experiment: JSON, markdown pages and plots."""
