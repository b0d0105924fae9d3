"""An HTTP server for tests: gives files, and misbehaves as a script says."""

import base64
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

Answer = Callable[["Request", bytes], None]


@dataclass
class Site:
    """What is served, and what was asked for."""

    address: str
    files: dict[str, bytes] = field(default_factory=dict)  # by path, with its first slash
    script: dict[str, list[Answer]] = field(default_factory=dict)  # answers to the first requests for a path
    asked: list["Request"] = field(default_factory=list)

    def asked_for(self, path: str) -> list["Request"]:
        """The requests for one path, in order."""
        return [request for request in self.asked if request.path == path]


@contextmanager
def serve(files: dict[str, bytes] | None = None) -> Iterator[Site]:
    """Serve files on a free local port until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Request)
    server.daemon_threads = True
    site = Site(f"http://127.0.0.1:{server.server_address[1]}", files or {})
    server.site = site  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Request(BaseHTTPRequestHandler):
    """One request, answered by the site's script or by `good`."""

    sent = 0  # bytes of content

    @property
    def start(self) -> int:
        """First byte of the range that is asked for."""
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return int(found[1]) if found else 0

    def do_GET(self) -> None:
        site: Site = self.server.site  # type: ignore[attr-defined]
        self.path = unquote(self.path)
        site.asked.append(self)
        script = site.script.get(self.path)
        if self.path not in site.files and not script:
            return self.send_error(404)
        answer = script.pop(0) if script else good
        return answer(self, site.files.get(self.path, b""))

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def head(self, status: int, length: int | None, **headers: str) -> None:
        """Send status and headers."""
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def body(self, content: bytes) -> None:
        """Send content, as much as the other side takes."""
        with suppress(ConnectionError):
            self.wfile.write(content)
            self.sent += len(content)


def good(request: Request, content: bytes) -> None:
    """The file, or the part of it that is asked for; the entity tag changes with the content."""
    tag = f'"{hash(content)}"'
    start = request.start if request.headers.get("If-Range", tag) == tag else 0
    if start >= len(content) > 0:
        return request.head(416, 0, Content_Range=f"bytes */{len(content)}")
    if start:
        range_ = f"bytes {start}-{len(content) - 1}/{len(content)}"
        request.head(206, len(content) - start, Content_Range=range_, ETag=tag)
    else:
        request.head(200, len(content), ETag=tag)
    return request.body(content[start:])


def without_ranges(request: Request, content: bytes) -> None:
    """All of the file, whatever is asked for."""
    request.head(200, len(content))
    request.body(content)


def without_length(request: Request, content: bytes) -> None:
    """All of the file, its size not stated."""
    request.head(200, None)
    request.body(content)


def without_tag(request: Request, content: bytes) -> None:
    """The first half of the file, then the connection ends; nothing vouches for what it was."""
    request.head(200, len(content))
    request.body(content[: len(content) // 2])


def truncated(request: Request, content: bytes) -> None:
    """Half of what is left of the file, then the connection ends."""
    rest = content[request.start :]
    range_ = f"bytes {request.start}-{len(content) - 1}/{len(content)}"
    request.head(206 if request.start else 200, len(rest), ETag=f'"{hash(content)}"', Content_Range=range_)
    request.body(rest[: len(rest) // 2])


def error(status: int) -> Answer:
    """Nothing but a status."""
    return lambda request, _: request.head(status, 0)


def other(content: bytes) -> Answer:
    """Other content than the file's."""
    return lambda request, _: good(request, content)


def web_page(request: Request, content: bytes) -> None:
    """A page for humans, as hosts show them before large or restricted files."""
    request.head(200, 4, Content_Type="text/html; charset=utf-8")
    request.body(b"page")


def held(event: threading.Event, arrived: threading.Event | None = None) -> Answer:
    """Half of the file; the rest not before the event."""

    def answer(request: Request, content: bytes) -> None:
        request.head(200, len(content), ETag=f'"{hash(content)}"')
        half = len(content) // 2
        request.body(content[:half])
        if arrived:
            arrived.set()
        event.wait()
        request.body(content[half:])

    return answer


def for_token(user: str, key: str) -> Answer:
    """The file, for who sends this user name and key."""

    def answer(request: Request, content: bytes) -> None:
        expected = base64.b64encode(f"{user}:{key}".encode()).decode()
        if request.headers.get("Authorization") != f"Basic {expected}":
            return request.head(401, 0)
        return good(request, content)

    return answer


def for_bearer(token: str) -> Answer:
    """The file, for who sends this token."""

    def answer(request: Request, content: bytes) -> None:
        if request.headers.get("Authorization") != f"Bearer {token}":
            return request.head(401, 0)
        return good(request, content)

    return answer


def typed(kind: str, content: bytes) -> Answer:
    """Some content of this type, its length not stated."""

    def answer(request: Request, _: bytes) -> None:
        request.head(200, None, Content_Type=kind)
        request.body(content)

    return answer


def busy(status: int, wait: str) -> Answer:
    """Nothing but a status, and when to come again."""
    return lambda request, _: request.head(status, 0, Retry_After=wait)


def of_length(length: str) -> Answer:
    """The file, under a length that the server made up."""

    def answer(request: Request, content: bytes) -> None:
        request.head(200, None, Content_Length=length)
        request.body(content)

    return answer


def trickling(pause: float) -> Answer:
    """A few bytes at a time."""

    def answer(request: Request, content: bytes) -> None:
        request.head(200, len(content))
        for start in range(0, 4000, 100):
            request.body(content[start : start + 100])
            time.sleep(pause)

    return answer


def chunked(request: Request, content: bytes) -> None:
    """All of the file in HTTP's chunks."""
    request.protocol_version = "HTTP/1.1"
    request.head(200, None, Transfer_Encoding="chunked", Connection="close")
    for start in range(0, len(content), 50_000):
        part = content[start : start + 50_000]
        request.body(b"%x\r\n%s\r\n" % (len(part), part))
    request.body(b"0\r\n\r\n")
