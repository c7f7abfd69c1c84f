"""How the coroutines of a rollout get what they wait for: the thread that called, and answers in batches."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
