"""The tools that a policy may call: code, named tools with JSON arguments, and models. See docs/named_tools.md."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
