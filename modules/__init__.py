"""Training: the LightningModules for SFT and RL, their losses and optimizers, and the evaluation of any policy."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
