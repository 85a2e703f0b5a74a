"""What an export did and what was timed: frozen, printable, JSON-ready values."""
