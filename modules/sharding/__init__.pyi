from .shard import shard as shard
from .strategy import ShardedStrategy as ShardedStrategy
