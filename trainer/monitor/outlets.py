"""Where alerts go: the terminal, a file, a webhook. Each has a thread and a bounded queue, so none can hold up the run.

Webhook URLs are often secrets. No message here holds one, nor the text of an exception that could.
"""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from schemas.errors import Refused
from trainer.monitor.config import Kind

WAITING = 100  # alerts that wait for an outlet, at most
PATIENCE = 10.0  # seconds for one POST
PAUSES = (1.0, 4.0)  # seconds between tries


@dataclass(frozen=True)
class Alert:
    """What is told. time: UTC. process: of the mesh. suppressed: changes of this kind since the last message."""

    kind: Kind
    firing: bool
    step: int
    time: str
    process: int
    value: float | None
    threshold: float
    message: str
    suppressed: int = 0

    @property
    def text(self) -> str:
        """One line."""
        ended = "" if self.firing else " ended"
        where = f"step {self.step}" + (f", process {self.process}" if self.process else "")
        more = f" ({self.suppressed} more changes since the last message)" if self.suppressed else ""
        return f"[{self.kind}]{ended} {where}: {self.message}{more}"

    def as_json(self) -> dict[str, Any]:
        """As JSON values. `text` is what chat services show."""
        return {**asdict(self), "state": "firing" if self.firing else "ended", "text": self.text}


class Outlet:
    """Delivers alerts in a thread. What fails, or does not fit the queue, is counted, and said by `complain`."""

    def __init__(self, name: str, deliver: Callable[[Alert], None], complain: Callable[[str], None]) -> None:
        self.name, self._deliver, self._complain = name, deliver, complain
        self.delivered = self.lost = 0
        self._waiting: deque[Alert] = deque()
        self._closed = False
        self._change = threading.Condition()
        # A daemon: an outlet that hangs does not keep the process.
        self._thread = threading.Thread(target=self._run, name=f"alerts to {name}", daemon=True)
        self._thread.start()

    def put(self, alert: Alert) -> None:
        """Returns at once."""
        with self._change:
            if len(self._waiting) >= WAITING:
                self._waiting.popleft()
                self.lost += 1
            self._waiting.append(alert)
            self._change.notify()

    def close(self, seconds: float) -> None:
        """Deliver what waits, for so long at most."""
        with self._change:
            self._closed = True
            self._change.notify()
        self._thread.join(seconds)

    def _next(self) -> Alert | None:
        with self._change:
            while not self._waiting and not self._closed:
                self._change.wait()
            return self._waiting.popleft() if self._waiting else None

    def _run(self) -> None:
        said = False
        while (alert := self._next()) is not None:
            try:
                self._deliver(alert)
            except Exception as error:  # of whatever kind: the run goes on, and the next one is tried
                self.lost += 1
                if not said:
                    self._complain(f"WARNING: alerts do not reach {self.name}: {reason(error)}; {self.lost} lost")
                said = True
            else:
                self.delivered += 1
                said = False


def reason(error: Exception) -> str:
    """What went wrong, without the text of the exception, in which a URL may stand."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP status {error.code}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, OSError) and cause.errno is not None:
        return os.strerror(cause.errno)
    return type(cause).__name__


def to_file(path: Path) -> Callable[[Alert], None]:
    """Appends a JSON object a line. Opened anew each time: a disk may be full today and not tomorrow."""

    def deliver(alert: Alert) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(alert.as_json(), allow_nan=False) + "\n")

    return deliver


def url_in(variable: str) -> str:
    """The URL in an environment variable. Raises Refused, without the value, if it is none that can be POSTed to."""
    url = os.environ.get(variable)
    if not url:
        raise Refused(f"monitor.alerts.webhook: the environment variable {variable} is not set")
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
        fits = fits and parts.port != 0 and url.isascii() and url.isprintable() and " " not in url
    except ValueError:  # an impossible port or address
        fits = False
    if not fits:
        raise Refused(
            f"monitor.alerts.webhook: {variable} does not hold an http:// or https:// URL without a user name and "
            f"spaces (the value is not shown: it may be a secret)"
        )
    return url


class _StayHere(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: the alert would go, without its content, to a server nobody named."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def to_webhook(url: str, run: str, pauses: tuple[float, ...] = PAUSES) -> Callable[[Alert], None]:
    """POSTs an alert as JSON, with `run` in it; tries again where another try may help, after each pause."""
    opener = urllib.request.build_opener(_StayHere)

    def deliver(alert: Alert) -> None:
        body = json.dumps({"run": run, **alert.as_json()}, allow_nan=False).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "tokenmill"}
        for pause in (*pauses, None):
            try:
                with opener.open(urllib.request.Request(url, body, headers), timeout=PATIENCE):
                    return
            except OSError as error:  # URLError, and so HTTPError, timeouts and resets, are of this class
                helpless = isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code != 429
                if pause is None or helpless:
                    raise
                time.sleep(pause)

    return deliver
