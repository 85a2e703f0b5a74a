"""Penalties whose proximal steps make whole groups exactly zero."""
