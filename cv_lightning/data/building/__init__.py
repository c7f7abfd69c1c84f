"""Building data: metadata, a teacher that writes what the executor runs, checks, and files as they are published."""
