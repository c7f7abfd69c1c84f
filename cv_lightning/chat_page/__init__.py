"""A local web page to talk with a policy: `python -m cv_lightning chat --serve`."""
