from .benchmarks import Grade as Grade
from .benchmarks import find_rule as find_rule
from .benchmarks import grade as grade
from .judge import Judge as Judge
from .rules import anls as anls
from .rules import is_right as is_right
from .rules import is_right_relaxed as is_right_relaxed
