"""Object stores in a process of their own, and a proxy before one that makes it as slow and as faulty as a test likes.

Everything is on the loopback interface; the proxy's faults are drawn from a seed.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from ensemble_tune.object_path import ObjectPath

Fault = Literal["refuse", "unavailable", "drop", "lose", "truncate", "slow", "denied"]
"""What becomes of a request: 500, 503, a connection closed before the request is passed on, or after it was but before
the answer, half an answer, one that takes a while, or 403."""

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_EC2_METADATA_DISABLED": "true",
    # Where a test names no server of its own, nobody answers: nothing ever goes to Amazon's or Google's.
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "STORAGE_EMULATOR_HOST": "http://127.0.0.1:9",
}


@contextmanager
def s3_server() -> Iterator[str]:
    """Yields the address of a new server."""
    with _served("moto.server", "-H", "127.0.0.1", "-p") as address:
        yield address


@contextmanager
def google_server() -> Iterator[str]:
    """Yields the address of a new server of Google's kind, which holds everything in memory."""
    with _served("gcp_storage_emulator", "start", "--in-memory", "--host", "127.0.0.1", "--port") as address:
        yield address


@contextmanager
def _served(*module: str) -> Iterator[str]:
    """Yields the address of a Python module that serves; its last argument is the port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", *module, str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 240
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < until
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def make_bucket(address: str, name: str) -> None:
    urllib.request.urlopen(urllib.request.Request(f"{address}/{name}", method="PUT"), timeout=240).read()


def make_google_bucket(address: str, name: str) -> None:
    ask = urllib.request.Request(
        f"{address}/storage/v1/b?project=test",
        data=json.dumps({"name": name}).encode(),
        headers={"Content-Type": "application/json"},
    )
    urllib.request.urlopen(ask, timeout=240).read()


@dataclass
class Proxy:
    """Passes requests on to a server, or does not."""

    upstream: str
    """Host and port."""
    faults: tuple[Fault, ...] = ()
    """What happens to the requests that are chosen."""
    first: int = 0
    """Of so many requests from now on each is."""
    share: float = 0.0
    """Of the others so large a share is."""
    only: tuple[str, ...] = ()
    """Methods that are chosen from; all where there is none."""
    before: Callable[[str, str], None] | None = None
    """Called with method and path before a request is passed on."""
    signed_only: bool = False
    """Whether requests without credentials are denied."""
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    log: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of every request."""
    injected: int = 0
    address: str = ""

    def fault(self, method: str) -> Fault | None:
        """What happens to the next request."""
        if self.only and method not in self.only:
            return None
        if self.first:
            self.first -= 1
        elif self.chance.random() >= self.share:
            return None
        self.injected += 1
        return self.chance.choice(self.faults)

    def mend(self) -> None:
        """From now on all is well."""
        self.first, self.share = 0, 0.0


@dataclass(frozen=True)
class Store:
    """A folder in a bucket."""

    folder: ObjectPath
    proxy: Proxy
    """What stands before its server."""


@contextmanager
def faulty_proxy(address: str) -> Iterator[Proxy]:
    """Yields a proxy before the server at `address`, without faults."""
    proxy = Proxy(upstream=address.partition("://")[2])
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            """Nothing is printed."""

        def _any(self) -> None:
            body = self._body()
            with lock:
                proxy.log.append((self.command, self.path))
                fault = proxy.fault(self.command)
                if proxy.signed_only and "Authorization" not in self.headers:
                    fault = "denied"
            if fault == "drop":
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if fault in ("refuse", "unavailable", "denied"):
                status = {"refuse": 500, "unavailable": 503, "denied": 403}[fault]
                code = {"refuse": "InternalError", "unavailable": "SlowDown", "denied": "AccessDenied"}[fault]
                self._answer(status, [], f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode())
                return
            if proxy.before is not None:
                proxy.before(self.command, self.path)
            if fault == "slow":
                time.sleep(0.5)
            connection = http.client.HTTPConnection(proxy.upstream, timeout=60)
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in ("expect", "transfer-encoding")
            }
            connection.request(self.command, self.path, body=body or None, headers=headers)
            answer = connection.getresponse()
            data = answer.read()
            connection.close()
            if fault == "lose":
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self._answer(answer.status, answer.getheaders(), data, half=fault == "truncate")

        def _body(self) -> bytes:
            if "chunked" not in (self.headers.get("Transfer-Encoding") or "").lower():
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                """What comes after the last chunk."""
            return b"".join(parts)

        def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, half: bool = False) -> None:
            self.send_response_only(status)
            hop = ("connection", "transfer-encoding", "keep-alive")
            named = {name.lower() for name, _ in headers}
            for name, value in headers:
                if name.lower() not in hop:
                    self.send_header(name, value)
            if "content-length" not in named:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[: len(data) // 2] if half else data)
            if half:
                self.close_connection = True
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *args: None  # type: ignore[method-assign]
    proxy.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
