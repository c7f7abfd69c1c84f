"""Questions and recorded episodes: their sources, and how they reach a module.

`worlds/` draws questions, `sources/` reads published ones, `oracle` and `orientation` prepare them, and the data
modules batch them. Names are imported when they are first used: `data check` needs no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
