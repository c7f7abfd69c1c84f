"""Questions and recorded episodes: their sources, and the data modules that batch them.

`worlds/` draws questions, `sources/` reads published questions, `oracle` and `orientation` prepare them, and the data
modules batch them. Names are imported at their first use, so `data check` needs no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
