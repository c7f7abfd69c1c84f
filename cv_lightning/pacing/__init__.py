"""Serves the waiting coroutines of a rollout: work in the calling thread, and answers in batches."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
