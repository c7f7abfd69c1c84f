from .batches import Barrier as Barrier
from .batches import Batches as Batches
from .batches import SortedCalls as SortedCalls
from .callers_thread import CallersThread as CallersThread
