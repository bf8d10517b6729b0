"""Pages over HTTP, read only: what a table of addresses names, and nothing else of the disk."""

import errno
import ipaddress
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from urllib.parse import urlsplit

from reptile_scaling.errors import InputError

SECONDS_FOR_A_REQUEST = 10.0
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
NOTHING_ELSE = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


@dataclass(frozen=True)
class Page:
    """What an address answers with."""

    content: bytes
    policy: str = ""
    """What the page may do beyond NOTHING_ELSE, in the words of Content-Security-Policy."""
    kind: str = "text/html"


Routes = Mapping[str, Callable[[], Page | None]]
"""Addresses → what makes their page; None while there is none."""


class PageServer(ThreadingTCPServer):
    """Answers GET and HEAD for the addresses of `routes`."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, routes: Routes, host: str, port: int) -> None:
        self.routes = routes
        try:
            self.address_family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self.host = str(address[0])
            super().__init__((self.host, port), _Handler)
        except OSError as error:
            raise InputError(_refusal(error, host, port)) from None
        self.port = int(self.server_address[1])
        self.is_for_this_machine = ipaddress.ip_address(self.host).is_loopback

    @property
    def address(self) -> str:
        """As a browser wants it."""
        host = f"[{self.host}]" if self.address_family == socket.AF_INET6 else self.host
        return f"http://{host}:{self.port}/"

    def is_called_by_its_name(self, host: str) -> bool:
        """A loopback server is called by a loopback name: under another, a web page elsewhere had its own name
        resolved to this machine in order to read it."""
        if not self.is_for_this_machine:
            return True
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name == "localhost" or ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that has gone is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def _refusal(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use: choose another --port, or --port 0 for any that is free"
    if error.errno == errno.EACCES:
        return f"port {port} is not for this user to take: choose a --port above 1023"
    return f"{host!r} is no address of this machine: leave --host out, or give an address of its own such as 0.0.0.0"


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    timeout = SECONDS_FOR_A_REQUEST

    def do_GET(self) -> None:
        status, page = self._found()
        self._send_head(status, page)
        self.wfile.write(page.content)

    def do_HEAD(self) -> None:
        self._send_head(*self._found())

    def _found(self) -> tuple[HTTPStatus, Page]:
        if not self.server.is_called_by_its_name(self.headers.get("Host", "localhost")):
            return HTTPStatus.FORBIDDEN, _sentence("This server answers to localhost alone.")
        make = self.server.routes.get(self.path.partition("?")[0])
        try:
            page = make() if make is not None else None
        except InputError as error:
            return HTTPStatus.SERVICE_UNAVAILABLE, _sentence(str(error))
        if page is None:
            return HTTPStatus.NOT_FOUND, _sentence("Nothing is here, or not yet.")
        return HTTPStatus.OK, page

    def _send_head(self, status: HTTPStatus, page: Page) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{page.kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(page.content)))
        self.send_header("Content-Security-Policy", "; ".join(filter(None, (NOTHING_ELSE, page.policy))))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()

    def version_string(self) -> str:
        return "reptile-scaling"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a page that renews itself would fill the screen."""


def _sentence(text: str) -> Page:
    return Page(text.encode(), kind="text/plain")
