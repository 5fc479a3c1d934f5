"""Objects of Google Cloud Storage: one request at a time (`schemas.gcs` has the client and its failures)."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Callable
from typing import Protocol

from schemas.errors import Refused
from schemas.gcs import SCHEME, api_error, explained, make_client, split_url
from schemas.retry import Retry, retried


class Sink(Protocol):
    """What takes an object's bytes as they come."""

    def write(self, data: bytes, /) -> object:
        """Take the next bytes; what it raises ends the request and comes out of it."""


class Remote:
    """The objects below one gs:// URL; safe for several threads.

    Raises:
        Refused: the URL is no gs://bucket/…, google-cloud-storage is not installed, or there are no credentials.
    """

    def __init__(self, url: str, retry: Retry) -> None:
        if not url.startswith(SCHEME):
            raise Refused(f"{url}: only gs://BUCKET/PATH is cached; read other places directly")
        bucket, self._prefix = split_url(url)
        self.url = url.rstrip("/")
        self._timeout = (retry.connect, retry.read)
        self._client = make_client(url)
        self._bucket = self._client.bucket(bucket)

    def name(self, path: str) -> str:
        """The whole URL of an object, as errors name it."""
        return f"{self.url}/{path}" if path else self.url

    def read(self, path: str, sink: Sink, start: int) -> None:
        """Send an object's stored bytes from `start` on to `sink`, in one request.

        Returns without a byte when the object ends at or before `start`.

        Raises:
            Transient: the request failed and may succeed later.
            TokenmillError: it will not: no such object, no permission.
        """
        blob = self._bucket.blob("/".join(part for part in (self._prefix, path) if part))
        with explained(self.name(path)):
            try:
                blob.download_to_file(
                    sink, start=start or None, raw_download=True, timeout=self._timeout, checksum=None, retry=None
                )
            except api_error() as error:
                if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                    raise

    def read_all(self) -> bytes:
        """The object at the URL itself, in one request, checked against the crc32c the server sends.

        Raises:
            Transient, TokenmillError: as `read`.
        """
        with explained(self.url):
            content: bytes = self._bucket.blob(self._prefix).download_as_bytes(
                timeout=self._timeout, checksum="crc32c", retry=None
            )
        return content

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()


def read_object(url: str, retry: Retry | None = None, sleep: Callable[[float], object] = time.sleep) -> bytes:
    """A small remote object, such as a manifest, with the retries of a shard.

    Raises:
        Refused: as `Remote`.
        TokenmillError: there is no such object, no permission, or it was given up; names it.
    """
    retry = retry or Retry()
    with contextlib.closing(Remote(url, retry)) as remote:
        return retried(remote.read_all, url, retry.seconds(0), retry, sleep)
