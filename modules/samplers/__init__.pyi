from .itself import Itself as Itself
from .replica import Replica as Replica
from .sampler import Sampler as Sampler
from .vllm import VLLM as VLLM
