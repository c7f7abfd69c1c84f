"""Helpers that commands share in a terminal: progress, --quiet, suggestions for misspelled names, output files."""
