"""Remote shards on a local disk: a bounded cache over Google Cloud Storage. Importing this needs nothing of Google."""

from loader.cache.cache import ShardCache
from loader.cache.remote import read_object
from schemas.retry import Retry

__all__ = ["Retry", "ShardCache", "read_object"]
