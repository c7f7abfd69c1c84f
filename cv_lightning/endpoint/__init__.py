"""Asks a model behind an OpenAI-compatible server, with retries, a cost limit and a cache on disk."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
