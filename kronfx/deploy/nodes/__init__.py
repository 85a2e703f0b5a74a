"""The smallest things of a graph: its constants as arrays, and how nodes are added."""
