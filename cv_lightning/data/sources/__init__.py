"""Recorded data as it is published: adapters from its rows to `Sample`, read without holding it in memory."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
