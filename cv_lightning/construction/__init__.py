"""`data build`: plans an episode, has a teacher write it, executes and checks it, and writes the published formats."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
