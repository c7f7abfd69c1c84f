"""Serves a policy behind an OpenAI-compatible HTTP endpoint: `python -m cv_lightning serve`."""
