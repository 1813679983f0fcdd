"""A stand-in for the Hub on the loopback interface, that can be told to misbehave."""

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub(ThreadingHTTPServer):
    """Serves files of one commit. The lists are used up one request after the other, then all is well.

    cuts   after how many bytes of a body the connection breaks
    codes  status codes answered instead of a body
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.cuts: list[int] = []
        self.codes: list[int] = []
        self.length_lie = 0  # added to every Content-Length of a body
        self.page: bytes | None = None  # what a hotel's login page would answer to everything
        self.requests: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        hub, wanted = self.server, self.headers.get("Range")
        hub.requests.append(f"{self.command} {wanted or ''}".strip())
        if hub.page is not None:
            self._head(200, {"Content-Type": "text/html", "Content-Length": len(hub.page)})
            if body:
                self.wfile.write(hub.page)
            return
        content = hub.files.get(self.path.rpartition("/")[2])
        if body and hub.codes:
            self._head(hub.codes.pop(0), {"Content-Length": 0, "Retry-After": "0"})
        elif content is None:
            self._head(404, {"Content-Length": 0, "X-Error-Code": "EntryNotFound"})
        else:
            self._send(content, start=int(wanted.partition("=")[2].partition("-")[0]) if wanted else 0, body=body)

    def _send(self, content: bytes, *, start: int, body: bool) -> None:
        hub, rest = self.server, content[start:]
        headers: dict[str, object] = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": "c" * 40,
            "Content-Length": len(rest) + (hub.length_lie if body else 0),
            "Accept-Ranges": "bytes",
        }
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._head(206 if start else 200, headers)
        if body:
            cut = hub.cuts.pop(0) if hub.cuts else None
            with contextlib.suppress(OSError):
                self.wfile.write(rest[:cut])
            if cut is not None or hub.length_lie:
                self.close_connection = True

    def _head(self, code: int, headers: dict[str, object]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()


@contextlib.contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Hub]:
    """The server in a thread, while the block lasts."""
    hub = Hub(files)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
