"""Procedural worlds: questions with exact answers and boxes for any index, without files.

`plates` draws the text plates of the tiny recipe; `families` draws scenes, charts, receipts, forms and faint text.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
