from .client import ChatReply as ChatReply
from .client import Endpoint as Endpoint
from .meter import EndpointError as EndpointError
from .meter import Usage as Usage
from .solver import EndpointSolver as EndpointSolver
