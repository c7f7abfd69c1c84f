"""Who speaks in a rollout: the policy itself, or a copy of it on every rank."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
