"""Objects of Google Cloud Storage: one request at a time, and what its failures mean.

google-cloud-storage's own retries are switched off everywhere (`retry=None`); `loader.cache.retry` has the rules. With
STORAGE_EMULATOR_HOST set the library talks to that server, without credentials.
"""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from loader.cache.retry import Retry, Transient, retried
from schemas.errors import Refused, TokenmillError

SCHEME = "gs://"
TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})


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
        bucket, _, prefix = url.removeprefix(SCHEME).partition("/")
        if not url.startswith(SCHEME) or not bucket:
            raise Refused(f"{url}: only gs://BUCKET/PATH is cached; read other places directly")
        self.url = url.rstrip("/")
        self._prefix = prefix.rstrip("/")
        self._timeout = (retry.connect, retry.read)
        self._client = _client(url)
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
        with _explained(self.name(path)):
            try:
                blob.download_to_file(
                    sink, start=start or None, raw_download=True, timeout=self._timeout, checksum=None, retry=None
                )
            except _api_error() as error:
                if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                    raise

    def read_all(self) -> bytes:
        """The object at the URL itself, in one request, checked against the crc32c the server sends.

        Raises:
            Transient, TokenmillError: as `read`.
        """
        with _explained(self.url):
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


def _client(url: str) -> Any:
    try:
        from google.auth.exceptions import DefaultCredentialsError  # noqa: PLC0415
        from google.cloud.storage import Client  # noqa: PLC0415
    except ImportError:
        raise Refused(f"{url}: google-cloud-storage is not installed; install tokenmill with the extra `gcp`") from None
    try:
        return Client()
    except DefaultCredentialsError:
        raise Refused(
            f"{url}: there are no Google Cloud credentials; run `gcloud auth application-default login`, "
            f"or set GOOGLE_APPLICATION_CREDENTIALS"
        ) from None
    except OSError as error:
        if "project" in str(error).lower():  # credentials without a project: reading objects needs none
            return Client(project="none")
        raise


def _api_error() -> Any:
    from google.api_core.exceptions import GoogleAPICallError  # noqa: PLC0415

    return GoogleAPICallError


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Sort what a request may raise into Transient and TokenmillError."""
    import requests  # noqa: PLC0415
    import urllib3  # noqa: PLC0415
    from google.auth.exceptions import GoogleAuthError, TransportError  # noqa: PLC0415
    from google.cloud.storage.exceptions import DataCorruption  # noqa: PLC0415

    passing = (
        requests.RequestException,
        urllib3.exceptions.HTTPError,
        http.client.HTTPException,
        ConnectionError,
        TimeoutError,
        TransportError,
    )
    try:
        yield
    except _api_error() as error:
        if error.code in TRANSIENT_STATUS:
            raise Transient(f"HTTP status {error.code}") from error
        raise TokenmillError(f"{name}: {_REASONS.get(error.code, f'the server refused it: {error}')}") from error
    except DataCorruption as error:
        raise Transient("its bytes do not have the crc32c the server sent with them") from error
    except passing as error:
        raise Transient(f"{type(error).__name__}: {error}") from error
    except GoogleAuthError as error:
        raise TokenmillError(f"{name}: the Google Cloud credentials were not accepted: {error}") from error


_REASONS = {
    401: "the server asks for credentials (HTTP 401); run `gcloud auth application-default login`",
    403: "the credentials in use may not read it (HTTP 403)",
    404: "there is no such object or bucket (HTTP 404)",
}
