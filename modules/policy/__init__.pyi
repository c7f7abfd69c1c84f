from .policy import Policy as Policy
from .tiny import TinyConfig as TinyConfig
from .tiny import build_tiny as build_tiny
