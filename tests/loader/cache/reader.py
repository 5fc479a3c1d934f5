"""A process that reads shards through a cache, told how by one JSON argument; prints a line after each step.

Each shard of `order` is acquired, its bytes are compared with its hash, and it is released; the last `keep` stay
acquired, and the process waits to be killed. Prints what was read, then `done`.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path

from loader.cache import Retry, ShardCache
from schemas.errors import TokenmillError
from schemas.manifest import File


def main() -> None:
    told = json.loads(sys.argv[1])
    files = [File.model_validate(file) for file in told["files"]]
    retry = Retry(grace=20.0, first=0.01, longest=0.05, connect=5.0, read=told.get("read", 5.0))
    cache = ShardCache(
        told["url"],
        files,
        told["directory"],
        told["budget"],
        concurrent=told.get("concurrent", 1),
        patience=told.get("patience", 60.0),
        retry=retry,
    )
    with cache:
        cache.plan(told["order"])
        kept = len(told["order"]) - told.get("keep", 0)
        for step, shard in enumerate(told["order"]):
            try:
                path = cache.acquire(shard)
            except TokenmillError as error:
                print(f"error {error}", flush=True)
                return
            data = Path(path).read_bytes()
            assert hashlib.sha256(data).hexdigest() == files[shard].sha256
            time.sleep(told.get("pause", 0.0))
            assert Path(path).read_bytes() == data
            if step < kept:
                cache.release(shard)
            print(f"read {shard}", flush=True)
        if told.get("keep"):
            print("holding", flush=True)
            time.sleep(600)
    print("done", flush=True)


if __name__ == "__main__":
    main()
