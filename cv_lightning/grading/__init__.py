"""Decides whether an answer is right: by the rule of its benchmark, then by a judge if one is configured."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
