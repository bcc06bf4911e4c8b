"""The page's server: who is answered, and who is not."""

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest

from saeworks.errors import UserError
from saeworks.people.raters import AnswerFile, open_answers
from saeworks.people.server import RatingServer
from saeworks.people.study import HumanStudy


@pytest.fixture
def server(unanswered: tuple[Path, HumanStudy]) -> Iterator[RatingServer]:
    folder, study = unanswered
    with open_answers(folder, study, "ann") as answers, RatingServer(study, answers, "ann") as it:
        thread = Thread(target=it.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield it
        it.shutdown()
        thread.join()


def ask(
    server: RatingServer,
    place: str,
    body: bytes | None = None,
    path: str | None = None,
    method: str | None = None,
    **headers: str | None,
) -> tuple[int, bytes, http.client.HTTPMessage]:
    """A request with the headers that a browser sends; None leaves one out."""
    port = server.server_port
    sent: dict[str, str | None] = {"Host": f"127.0.0.1:{port}"}
    if body is not None:
        sent |= {"Origin": f"http://127.0.0.1:{port}", "Content-Type": "application/json"}
        sent |= {"Content-Length": str(len(body))}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    where = f"/{server.token}/{place}" if path is None else path
    connection.putrequest(
        method or ("GET" if body is None else "POST"),
        where,
        skip_host=True,
        skip_accept_encoding=True,
    )
    for name, value in sent.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(body)
    response = connection.getresponse()
    data = response.read()
    connection.close()
    return response.status, data, response.msg


def answer(**entries: Any) -> bytes:
    return json.dumps({"latent": 0, "verdict": "yes", "seconds": 1.0} | entries).encode()


def test_it_listens_on_this_machine_alone(server: RatingServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    parts = urlsplit(server.url)
    assert parts.hostname == "127.0.0.1" and len(parts.path) > 20


def test_the_page_may_load_nothing_from_elsewhere(server: RatingServer) -> None:
    for place, kind in (("", "html"), ("rating.js", "javascript"), ("rating.css", "css")):
        status, body, headers = ask(server, place)
        assert status == 200 and kind in headers["Content-Type"]
        assert b"http:" not in body and b"https:" not in body
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert "Python" not in headers["Server"]


def test_a_latent_is_shown_without_its_name(server: RatingServer) -> None:
    status, body, _ = ask(server, "latent/0")
    shown = json.loads(body)
    told = {"place", "contexts", "promoted", "suppressed", "verdict", "note"}
    assert status == 200 and set(shown) == told
    assert "↵" in shown["contexts"][0]["tokens"]
    for word in (b"first", b"second", b"topk", b"layers", b"suite"):
        assert word not in body


def test_an_answer_is_on_the_disk_when_the_page_is_told(server: RatingServer) -> None:
    status, body, _ = ask(server, "answer", answer(note="Ω"))
    assert status == 200 and json.loads(body)["judged"] == {"0": "yes"}
    assert json.loads(body)["seconds_left"] == 15.0
    assert server.answers.answers[0].note == "Ω"
    assert json.loads(ask(server, "latent/0")[1])["verdict"] == "yes"
    assert json.loads(ask(server, "answer", answer(verdict=None))[1])["judged"] == {}


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "", None]
)
def test_another_host_is_refused(server: RatingServer, host: str | None) -> None:
    """A name that was rebound to 127.0.0.1 comes with that name."""
    given = None if host is None else host.format(port=server.server_port)
    assert ask(server, "state", Host=given)[0] == 421
    assert ask(server, "state", Host=f"localhost:{server.server_port}")[0] == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", None])
def test_an_answer_of_another_page_is_refused(server: RatingServer, origin: str | None) -> None:
    assert ask(server, "answer", answer(), Origin=origin)[0] == 403
    assert not server.answers.answers


def test_another_page_may_not_look(server: RatingServer) -> None:
    assert ask(server, "state", Sec_Fetch_Site="cross-site")[0] == 403
    assert ask(server, "state", Origin="https://evil.example")[0] == 403
    assert ask(server, "state", Sec_Fetch_Site="same-origin")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/", "/state", "/wrong/state", "/{token}", "/{token}/../../etc/passwd",
        "/{token}/%2e%2e/study.json", "/{token}/study.json", "/{token}/latent/16",
        "/{token}/latent/-1", "/{token}/latent/0/..", "/{token}/latent/٣", "/{token}/assets/",
        "/{token}/latent/99999999999999999999", "http://evil.example/{token}/state", "*",
    ],
)  # fmt: skip
def test_every_other_address_is_not_found(server: RatingServer, path: str) -> None:
    text = path.format(token=server.token).encode().decode("latin-1")
    connection = socket.create_connection(("127.0.0.1", server.server_port), timeout=10)
    host = f"127.0.0.1:{server.server_port}"
    connection.sendall(f"GET {text} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1"))
    assert b" 404 " in connection.recv(200).splitlines()[0]
    connection.close()


def test_requests_are_bounded(server: RatingServer) -> None:
    large = b" " * 70_000
    assert ask(server, "answer", large)[0] == 413
    assert ask(server, "answer", b"{}", Content_Length="99999999999")[0] == 413
    assert ask(server, "answer", answer(), Content_Length=None)[0] == 411
    assert ask(server, "answer", answer(), Content_Length="-1")[0] == 411
    assert ask(server, "answer", b"", Transfer_Encoding="chunked")[0] == 411
    assert ask(server, "answer", answer(), Content_Type="text/plain")[0] == 415
    assert ask(server, "state", b"{}")[0] == 404
    assert ask(server, "state", method="DELETE")[0] == 501
    assert ask(server, "state", path="/" + "a" * 70_000)[0] == 414
    assert ask(server, "state")[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{", answer(verdict="perhaps"), answer(latent=16), answer(latent=-1),
        answer(latent=0.5), answer(note="x" * 2001), answer(seconds=-1), answer(other=1),
        answer().replace(b"1.0", b"NaN"), answer(note="\\ud800").replace(b"\\\\", b"\\"),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_told_in_one_line(server: RatingServer, body: bytes) -> None:
    status, told, _ = ask(server, "answer", body)
    assert status == 422
    error = json.loads(told)["error"]
    assert error.startswith("answer") and "\n" not in error
    assert not server.answers.answers


def test_a_port_that_is_in_use(server: RatingServer) -> None:
    study: HumanStudy = server.study
    answers: AnswerFile = server.answers
    port = server.server_port
    with pytest.raises(UserError, match=f"--port {port}: it is in use; choose another"):
        RatingServer(study, answers, "ann", port)
    with pytest.raises(UserError, match="--port 70000: "):
        RatingServer(study, answers, "ann", 70_000)
    with pytest.raises(UserError, match="--port -1: "):
        RatingServer(study, answers, "ann", -1)
