"""``python -m kronfx``."""

from kronfx.cli import app

if __name__ == "__main__":
    app(prog_name="kronfx")
