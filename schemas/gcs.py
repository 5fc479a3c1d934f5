"""Google Cloud Storage as the loader's cache and the pipelines meet it: the client, and what its failures mean.

google-cloud-storage's own retries are switched off everywhere (`retry=None`); `schemas.retry` has the rules.
Credentials are the application default ones. With STORAGE_EMULATOR_HOST set the library talks to that server, without
any. Importing this needs nothing of Google.
"""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Iterator
from typing import Any

from schemas.errors import Refused, TokenmillError
from schemas.retry import Transient

SCHEME = "gs://"
TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})


class Absent(TokenmillError):
    """There is no such object or bucket."""


class Forbidden(TokenmillError):
    """The credentials in use do not allow it."""


class Changed(TokenmillError):
    """The object is of another generation than the request was made for."""


def split_url(url: str) -> tuple[str, str]:
    """(bucket, name) of a gs:// URL; the name may be ''. Raises Refused when it is none."""
    bucket, _, name = url.removeprefix(SCHEME).partition("/")
    if not url.startswith(SCHEME) or not bucket:
        raise Refused(f"{url}: is no gs://BUCKET/PATH")
    return bucket, name.rstrip("/")


def make_client(url: str) -> Any:
    """A `google.cloud.storage.Client`; safe for several threads, not across a fork. `url` begins the errors' sentences.

    Raises:
        Refused: google-cloud-storage is not installed, or there are no credentials.
    """
    try:
        from google.auth.exceptions import DefaultCredentialsError  # noqa: PLC0415
        from google.cloud.storage import Client  # noqa: PLC0415
    except ImportError:
        raise Refused(f"{url}: google-cloud-storage is not installed; install tokenmill with the extra `gcp`") from None
    try:
        return Client()
    except DefaultCredentialsError as error:
        told = " ".join(str(error).split())
        missing = "" if "default credentials were not found" in told else f" ({told})"
        raise Refused(
            f"{url}: there are no Google Cloud credentials{missing}; run `gcloud auth application-default login`, "
            f"or set GOOGLE_APPLICATION_CREDENTIALS"
        ) from None
    except OSError as error:
        if "project" in str(error).lower():  # credentials without a project: objects need none
            return Client(project="none")
        raise


def api_error() -> Any:
    """The class of errors that carry a server's answer."""
    from google.api_core.exceptions import GoogleAPICallError  # noqa: PLC0415

    return GoogleAPICallError


@contextlib.contextmanager
def explained(name: str, verb: str = "read") -> Iterator[None]:
    """Sort what a request for the object `name` may raise.

    Raises:
        Transient: it may succeed later.
        Absent, Changed, TokenmillError: it will not.
    """
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
    except api_error() as error:
        if error.code in TRANSIENT_STATUS:
            raise Transient(f"HTTP status {error.code}") from error
        if error.code == http.client.BAD_REQUEST and "CRC32C" in str(error):
            raise Transient("its bytes did not arrive with the crc32c they were sent with") from error
        kind = {401: Forbidden, 403: Forbidden, 404: Absent, 412: Changed}.get(error.code, TokenmillError)
        told = _REASONS.get(error.code, f"the server refused it: {error}").format(verb=verb)
        raise kind(f"{name}: {told}") from error
    except DataCorruption as error:
        raise Transient("its bytes do not have the crc32c the server sent with them") from error
    except passing as error:
        raise Transient(f"{type(error).__name__}: {error}") from error
    except GoogleAuthError as error:
        raise TokenmillError(f"{name}: the Google Cloud credentials were not accepted: {error}") from error


_REASONS = {
    401: "the server asks for credentials (HTTP 401); run `gcloud auth application-default login`",
    403: "the credentials in use may not {verb} it (HTTP 403)",
    404: "there is no such object or bucket (HTTP 404)",
    412: "was changed by another process meanwhile (HTTP 412)",
}
