"""MLflow without waiting: a logger that writes to an outbox, a thread that sends it, and trajectories as traces."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
