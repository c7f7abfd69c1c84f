"""The local web page of `python -m cv_lightning chat --serve`."""
