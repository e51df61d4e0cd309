"""The thesis's claims, measured with controls; each experiment writes figures, a table and plots."""
