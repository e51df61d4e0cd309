"""Recipes that train the networks of `unspoken.model`; they import no service."""
