"""Talks with a policy about images, in a terminal or on a local page: `python -m cv_lightning chat`."""
