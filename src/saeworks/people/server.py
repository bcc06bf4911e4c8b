"""The page on which a rater judges, served to this machine alone.

It listens on 127.0.0.1. Every address begins with a token that is drawn anew at each start, so no
other program's page can guess it; a Host that is not ours is refused, which a name that was rebound
to 127.0.0.1 would be; what changes answers must come from our own page (Origin). The page may load
nothing but what is served here (Content-Security-Policy). No address is a path of the disk.
"""

import errno
import json
import secrets
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any, final

from saeworks.errors import UserError
from saeworks.people.raters import Answer, AnswerFile
from saeworks.people.study import HumanStudy, as_shown
from saeworks.results.records import parse_text

HOST = "127.0.0.1"
_LARGEST_REQUEST = 2**16
_WAIT = 30
"""Seconds for which a connection may be silent."""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
_PAGE = {
    "": ("index.html", "text/html; charset=utf-8"),
    "rating.js": ("rating.js", "text/javascript; charset=utf-8"),
    "rating.css": ("rating.css", "text/css; charset=utf-8"),
}
_JSON = "application/json"


@final
class RatingServer(ThreadingHTTPServer):
    """Serves one rater's part of a study until it is shut down.

    Attributes:
        url: the page's address, with its token.
    """

    daemon_threads = True

    def __init__(self, study: HumanStudy, answers: AnswerFile, rater: str, port: int = 0) -> None:
        """Listen.

        Args:
            port: 0 for any that is free.

        Raises:
            UserError: if the port is in use or cannot be had.
        """
        self.study, self.answers, self.rater = study, answers, rater
        self.page = {
            name: ((files("saeworks.people") / "assets" / asset).read_bytes(), kind)
            for name, (asset, kind) in _PAGE.items()
        }
        self.writing = threading.Lock()
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            reason = "it is in use" if in_use else str(getattr(error, "strerror", None) or error)
            raise UserError(
                f"--port {port}: {reason}; choose another, or leave it out for one that is free"
            ) from None
        self.hosts = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}
        self.token = secrets.token_urlsafe(16)
        self.url = f"http://{HOST}:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up in the middle is no error."""

    def state(self) -> dict[str, Any]:
        """How far the rater is."""
        judged, latents = self.answers.answers, len(self.study.latents)
        return {
            "rater": self.rater,
            "latents": latents,
            "judged": {str(place): answer.verdict for place, answer in judged.items()},
            "last": self.answers.last(),
            "seconds_left": self.answers.seconds_left(latents),
        }

    def latent(self, place: int) -> dict[str, Any]:
        """What is shown of a latent, and what was said of it."""
        answer = self.answers.answers.get(place)
        return as_shown(self.study, place) | {
            "verdict": answer.verdict if answer else None,
            "note": answer.note if answer else "",
        }

    def save(self, body: bytes) -> dict[str, Any]:
        """Save an answer; how far the rater is then.

        Raises:
            UserError: if it is none, or could not be saved.
        """
        answer = parse_text(Answer, body, "answer", "reload the page")
        if answer.latent >= len(self.study.latents):
            raise UserError(f"answer: the study has no latent {answer.latent}; reload the page")
        with self.writing:
            self.answers.save(answer)
            return self.state()


class _Unanswered(Exception):
    """A request that is not answered, and the status that says so."""


@final
class _Handler(BaseHTTPRequestHandler):
    server: RatingServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "saeworks", ""
    timeout = _WAIT

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal shows the progress."""

    def _answer(self, respond: Callable[[str], tuple[bytes, str]]) -> None:
        try:
            status, (body, kind) = HTTPStatus.OK, respond(self._place())
        except _Unanswered as refusal:
            self.close_connection = True  # what the request still holds is not read
            status, body, kind = refusal.args[0], b"", "text/plain"
        except UserError as error:
            status, kind = HTTPStatus.UNPROCESSABLE_ENTITY, _JSON
            body = json.dumps({"error": str(error)}).encode()
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def _place(self) -> str:
        """What is asked for behind the token.

        Raises:
            _Unanswered: if it is asked of another host or by another's page, or without the token.
        """
        if self.headers.get_all("Host") not in [[host] for host in self.server.hosts]:
            raise _Unanswered(HTTPStatus.MISDIRECTED_REQUEST)
        origin = self.headers.get("Origin")
        ours = {f"http://{host}" for host in self.server.hosts}
        if (origin is not None or self.command == "POST") and origin not in ours:
            raise _Unanswered(HTTPStatus.FORBIDDEN)
        if self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise _Unanswered(HTTPStatus.FORBIDDEN)
        _, _, behind = self.path.partition("/")
        token, slash, place = behind.partition("/")
        given, genuine = token.encode("utf-8", "replace"), self.server.token.encode()
        if not slash or not secrets.compare_digest(given, genuine):
            raise _Unanswered(HTTPStatus.NOT_FOUND)
        return place

    def _get(self, place: str) -> tuple[bytes, str]:
        if place in self.server.page:
            return self.server.page[place]
        with self.server.writing:
            if place == "state":
                return json.dumps(self.server.state()).encode(), _JSON
            kind, _, number = place.partition("/")
            known = number.isascii() and number.isdecimal() and len(number) < 9
            if kind != "latent" or not known or int(number) >= len(self.server.study.latents):
                raise _Unanswered(HTTPStatus.NOT_FOUND)
            return json.dumps(self.server.latent(int(number))).encode(), _JSON

    def _post(self, place: str) -> tuple[bytes, str]:
        if place != "answer":
            raise _Unanswered(HTTPStatus.NOT_FOUND)
        if self.headers.get("Content-Type", "").split(";")[0].strip() != _JSON:
            raise _Unanswered(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        length = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not (length.isascii() and length.isdecimal()):
            raise _Unanswered(HTTPStatus.LENGTH_REQUIRED)
        if len(length) > 9 or int(length) > _LARGEST_REQUEST:
            raise _Unanswered(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise _Unanswered(HTTPStatus.BAD_REQUEST)
        return json.dumps(self.server.save(body)).encode(), _JSON
