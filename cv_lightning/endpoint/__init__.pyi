from .client import Endpoint as Endpoint
from .meter import EndpointError as EndpointError
from .meter import Usage as Usage
from .reply import ChatReply as ChatReply
from .solver import EndpointSolver as EndpointSolver
