"""`test` for any policy: questions under every condition, an answer log, metrics, a table and a page."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
