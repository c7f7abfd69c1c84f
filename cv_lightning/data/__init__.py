"""Where samples and recorded episodes come from."""
