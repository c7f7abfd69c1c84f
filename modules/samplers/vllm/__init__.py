"""vLLM samples rollouts: a server beside the trainer or on its devices gets the weights after each update.

`launch` starts it, `fleet` keeps it running, `session` samples turns through it. `update` and `transfer` send it the
policy's weights, `adapters` sends LoRA adapters. `worker` runs inside the server.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
