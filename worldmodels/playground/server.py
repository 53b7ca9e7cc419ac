"""The page on this machine: a web server that knows these files and no others, on the loopback interface only."""

import errno
import mimetypes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from worldmodels.errors import UserError
from worldmodels.playground.site import Files

LOOPBACK = "127.0.0.1"
TRIES = 20  # ports after the one that was asked for
TYPES = mimetypes.MimeTypes()  # Python's own: the system's table may say something else of .js and .wasm


class Server(ThreadingHTTPServer):
    """Serves `files` by name; `files` holds the whole page, so nothing on the disk can be asked for."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, files: Files, port: int):
        self.files = files
        super().__init__((LOOPBACK, port), Handler)

    def handle_error(self, *request_and_address: object) -> None:
        """Browsers leave in mid-answer, and strangers talk nonsense: nobody's business in the terminal."""

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.server_address[1]}/"


class Handler(BaseHTTPRequestHandler):
    """GET and HEAD of a known name; 404 for everything else."""

    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a body is not held back until its head was acknowledged

    def do_GET(self) -> None:
        name = unquote(urlsplit(self.path).path).removeprefix("/") or "index.html"
        content = self.server.files.get(name)
        if content is None:
            self.send_error(404, "There is no such file in the playground")
            return
        kind = TYPES.guess_type(name, strict=False)[0] or "application/octet-stream"
        self.send_response(200)
        self.send_header("Content-Type", f"{kind}; charset=utf-8" if kind.startswith("text/") else kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-cache")  # another run may be served here next
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """The terminal stays quiet."""


def open_server(files: Files, port: int) -> Server:
    """A server at `port`, or at the next port that is free; UserError where none of them can be had."""
    for candidate in range(port, min(port + TRIES, 65_536)):
        try:
            return Server(files, candidate)
        except OSError as error:
            if error.errno == errno.EACCES:
                raise UserError(f"Port {candidate} is not for everybody: choose a --port from 1024 on.") from error
            if error.errno != errno.EADDRINUSE:
                raise
    raise UserError(f"The ports {port} to {min(port + TRIES, 65_536) - 1} are all taken: choose another --port.")
