from .launch import Launch as Launch
from .sampler import VLLM as VLLM
from .session import Patience as Patience
