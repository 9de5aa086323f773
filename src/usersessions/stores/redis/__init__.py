"""Sessions of many processes and machines that share a Redis or Valkey."""

from .store import RedisStore

__all__ = ["RedisStore"]
