"""The store of feature rows in Redis or Valkey: see row_store.py."""

from features.store.redis.connection import feast_settings
from features.store.redis.row_store import RedisRowStore

__all__ = ["RedisRowStore", "feast_settings"]
