"""Published data: adapters from its rows to `Sample`, which read rows without holding the data set in memory."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
