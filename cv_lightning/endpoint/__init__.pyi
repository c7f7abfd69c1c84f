from .client import ChatReply as ChatReply
from .client import Endpoint as Endpoint
from .client import EndpointError as EndpointError
from .client import Usage as Usage
from .solver import EndpointSolver as EndpointSolver
