"""An HTTP proxy before the storage emulator: adds the preconditions the emulator ignores, and does what networks do."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

FAULTS = ("429", "503", "drop", "short", "ends_early", "lost")
"""Two statuses; no answer and nothing done; half a body, then a reset or a clean end; all done and no answer."""


@dataclass(frozen=True)
class Request:
    """What came. kind: put, start (of an upload in parts), stat, download, list, delete, copy (of it); name: object or
    prefix.
    """

    kind: str
    name: str
    fault: str
    status: int


class Proxy:
    """choose(kind, name): the fault of each request as it comes, any status or ''. requests: all there were."""

    def __init__(self, upstream: int) -> None:
        self.choose: Callable[[str, str], str] = lambda kind, name: ""
        self.requests: list[Request] = []
        self._upstream = upstream
        self._writing = threading.Lock()  # a precondition is looked at and obeyed in one step
        self._uploads: dict[str, tuple[str, str | None]] = {}
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                with contextlib.suppress(ConnectionError):
                    proxy._handle(self)
                self.close_connection = True

            do_GET = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815 - the names http.server calls

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def count(self, *kinds: str) -> int:
        """How many requests of some kinds there were."""
        return sum(request.kind in kinds for request in self.requests)

    def _handle(self, to: BaseHTTPRequestHandler) -> None:
        body = to.rfile.read(int(to.headers.get("Content-Length") or 0))
        url = urlsplit(to.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        kind, name = self._meaning(to, url.path, query, body)
        fault = self.choose(kind, name) if kind else ""
        if fault == "drop" or fault.isdigit():
            self.requests.append(Request(kind, name, fault, 0))
            _reset(to) if fault == "drop" else to.send_error(int(fault))
            return
        status, headers, answer = self._obey(to, kind, name, query, body)
        if kind:
            self.requests.append(Request(kind, name, fault, status))
        if fault == "lost":
            _reset(to)
            return
        sent = answer[: len(answer) // 2] if fault in ("short", "ends_early") else answer
        to.send_response(status)
        for header, value in headers:
            if header.lower() not in ("content-length", "transfer-encoding", "date", "server", "connection"):
                to.send_header(header, value)
        to.send_header("Content-Length", str(len(sent if fault == "ends_early" else answer)))
        to.end_headers()
        to.wfile.write(sent)
        if fault == "short" and answer:
            to.wfile.flush()
            _reset(to)

    def _meaning(self, to: BaseHTTPRequestHandler, path: str, query: dict[str, str], body: bytes) -> tuple[str, str]:
        """(kind, name) of a request; ("", "") of the library's own look at the bucket."""
        if path.startswith("/upload/"):
            if "upload_id" in query:
                return "put", self._uploads[query["upload_id"]][0]
            about = body if query["uploadType"] == "resumable" else body.split(b"\r\n\r\n")[1].split(b"\r\n--")[0]
            return ("start" if query["uploadType"] == "resumable" else "put"), json.loads(about)["name"]
        found = re.fullmatch(r"(?:/download)?/storage/v1/b/[^/]+/o(?:/(.+))?", path)
        if found is None:
            return "", ""
        if found[1] is None:
            return "list", query.get("prefix", "")
        if "/rewriteTo/" in found[1]:
            return "copy", unquote(found[1].partition("/rewriteTo/")[0])
        kind = {"DELETE": "delete", "GET": "download" if query.get("alt") == "media" else "stat"}[to.command]
        return kind, unquote(found[1])

    def _obey(
        self, to: BaseHTTPRequestHandler, kind: str, name: str, query: dict[str, str], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """The emulator's answer, or 412 where the object is of another generation than the request is for."""
        wanted = query.get("ifGenerationMatch")
        upload = query.get("upload_id", "")
        if upload:
            wanted = self._uploads[upload][1]
        bucket = re.findall("/b/([^/]+)/o", to.path)
        with self._writing:
            if wanted is not None and self._generation(bucket[0], name) != int(wanted):
                return 412, [], b'{"error": {"code": 412, "message": "conditionNotMet"}}'
            status, headers, answer = self._forward(to.command, to.path, dict(to.headers), body)
        if kind == "start":
            location = dict(headers)["Location"]
            self._uploads[parse_qs(urlsplit(location).query)["upload_id"][0]] = name, wanted
        return status, headers, answer

    def _generation(self, bucket: str, name: str) -> int:
        status, _, answer = self._forward("GET", f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}", {}, b"")
        return int(json.loads(answer)["generation"]) if status == 200 else 0

    def _forward(
        self, command: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._upstream)) as connection:
            connection.request(command, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()


def _reset(to: BaseHTTPRequestHandler) -> None:
    to.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    to.connection.close()
