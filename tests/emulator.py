"""A Cloud Storage emulator in a process of its own."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

BUCKET = "shards"


@contextlib.contextmanager
def started() -> Iterator[int]:
    """The port of an emulator that runs meanwhile and has one empty bucket."""
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


def wipe(emulator: int) -> None:
    """Remove all objects: each request takes the longer the more there are."""
    urllib.request.urlopen(f"http://127.0.0.1:{emulator}/wipe?keep-buckets=true").close()


def client_of(emulator: int) -> Any:
    """A client of the emulator itself, whatever the environment says."""
    from google.auth.credentials import AnonymousCredentials  # noqa: PLC0415
    from google.cloud import storage  # noqa: PLC0415

    place = {"api_endpoint": f"http://127.0.0.1:{emulator}"}
    return storage.Client(project="tests", credentials=AnonymousCredentials(), client_options=place)


def upload(emulator: int, files: dict[str, bytes]) -> None:
    """Put objects into the bucket."""
    client = client_of(emulator)
    for name, data in files.items():
        client.bucket(BUCKET).blob(name).upload_from_string(data)


def stored(emulator: int, prefix: str) -> dict[str, bytes]:
    """The objects below a prefix, by the rest of their names."""
    blobs = client_of(emulator).list_blobs(BUCKET, prefix=prefix)
    return {blob.name.removeprefix(prefix): blob.download_as_bytes() for blob in blobs}
