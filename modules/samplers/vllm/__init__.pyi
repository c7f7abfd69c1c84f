from .engine import Patience as Patience
from .launch import Launch as Launch
from .sampler import VLLM as VLLM
