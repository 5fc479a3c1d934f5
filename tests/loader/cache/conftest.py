"""A storage emulator in a process of its own, a proxy before it, and views published there."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from loader.cache import Retry, ShardCache
from schemas.manifest import File
from tests.loader.cache.proxy import Proxy

BUCKET = "shards"
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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen([*command, "--quiet", "--in-memory", "--default-bucket", BUCKET])
    try:
        until = time.monotonic() + 30
        while True:
            assert process.poll() is None and time.monotonic() < until, "the emulator does not start"
            try:
                socket.create_connection(("127.0.0.1", port), 0.2).close()
                break
            except OSError:
                time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def proxy(emulator: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """What every client of the test, in this process and in its children, talks to."""
    proxy = Proxy(emulator)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{proxy.port}")
    yield proxy
    proxy.close()


def upload(emulator: int, files: dict[str, bytes]) -> None:
    """Put objects into the bucket, without the proxy."""
    from google.auth.credentials import AnonymousCredentials  # noqa: PLC0415
    from google.cloud import storage  # noqa: PLC0415

    place = {"api_endpoint": f"http://127.0.0.1:{emulator}"}
    client = storage.Client(project="tests", credentials=AnonymousCredentials(), client_options=place)
    for name, data in files.items():
        client.bucket(BUCKET).blob(name).upload_from_string(data)


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
