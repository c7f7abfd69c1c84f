from .evaluate import LocalSolver as LocalSolver
from .evaluate import RobustnessTest as RobustnessTest
from .grpo import GRPOModule as GRPOModule
from .sft import SFTModule as SFTModule
