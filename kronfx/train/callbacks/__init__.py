"""The recipe as callbacks of other people's trainers."""
