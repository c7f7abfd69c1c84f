"""The policy: a Hugging Face vision-language model with its tokenizer, images, sampling and scoring."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
