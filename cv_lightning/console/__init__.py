"""What commands share in a terminal: progress, --quiet, suggestions for misspelt names, output files."""
