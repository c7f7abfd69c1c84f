"""The lanes: ways to run a request, all behind the executor."""
