"""The thesis's claims, measured with controls: each writes figures, a table and plots."""
