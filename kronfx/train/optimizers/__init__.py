"""Steps and learning rates for factors."""
