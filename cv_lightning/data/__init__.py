"""Where samples and episodes come from."""
