"""The samplers of rollouts: the policy itself, a copy of it on every rank, or an engine."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
