"""A storage emulator in a process of its own, a proxy before it, and views published there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from loader.cache import Retry, ShardCache
from schemas.manifest import File
from tests.emulator import BUCKET, started, upload
from tests.loader.cache.proxy import Proxy

FAST = Retry(grace=20.0, first=0.01, longest=0.05, connect=2.0, read=0.4)
Publish = Callable[..., "View"]


class View:
    """A published view. content: the bytes of each file."""

    def __init__(self, url: str, content: list[bytes]) -> None:
        self.url, self.content = url, content
        self.files = [
            File(path=f"train-{n:05}.tfrecord", records=1, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
            for n, data in enumerate(content)
        ]

    def cache(self, directory: object, budget: int, concurrent: int = 1, **options: object) -> ShardCache:
        options = {"retry": FAST, **options}
        return ShardCache(self.url, self.files, str(directory), budget, concurrent=concurrent, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def emulator() -> Iterator[int]:
    """The port of the emulator."""
    with started() as port:
        yield port


@pytest.fixture
def proxy(emulator: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """What every client of the test, in this process and in its children, talks to."""
    proxy = Proxy(emulator)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{proxy.port}")
    yield proxy
    proxy.close()


@pytest.fixture
def publish(emulator: int, request: pytest.FixtureRequest) -> Publish:
    """Upload a view of random bytes: publish(sizes, name="view")."""

    def view_of(sizes: list[int], name: str = "view") -> View:
        random = np.random.default_rng(len(sizes))
        prefix = f"{request.node.name}/{name}".replace("[", "-").replace("]", "")
        view = View(f"gs://{BUCKET}/{prefix}", [random.bytes(size) for size in sizes])
        names = [f"{prefix}/{file.path}" for file in view.files]
        upload(emulator, dict(zip(names, view.content, strict=True)))
        return view

    return view_of
