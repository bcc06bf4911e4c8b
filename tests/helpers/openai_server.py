"""A server on localhost that speaks OpenAI's protocol, and misbehaves as it is told.

It knows what latents respond to from the words of the prompts: an explanation is the first marked
token, and a text is judged by whether that token is in it.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-secret-0123456789"


@dataclass
class Reply:
    """One response: by default the right one."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """Instead of the right one."""
    delay: float = 0.0
    finish: str = "stop"
    usage: bool = True
    text: str | None = None
    """Instead of the right answer."""


def failing(status: int, code: str = "", **headers: str) -> Reply:
    """An error as OpenAI's."""
    error = {"error": {"message": f"status {status}", "type": "x", "code": code or None}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, named, json.dumps(error).encode())


@dataclass
class Server:
    """What it was asked, and what it does next.

    Attributes:
        url: to be given as the endpoint.
        replies: to the next requests, in this order; then the right ones.
        requests: bodies of all that asked for a completion.
        at_once: the most requests that were on their way together.
    """

    url: str = ""
    key: str | None = KEY
    always: Reply | None = None
    replies: list[Reply] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    answered: int = 0
    tokens: int = 0
    at_once: int = 0
    each: Callable[[int], None] = lambda count: None
    _now: int = 0
    lock: Any = field(default_factory=threading.Lock)

    def next(self) -> Reply:
        with self.lock:
            return self.replies.pop(0) if self.replies else self.always or Reply()


def answer(messages: list[dict[str, str]]) -> str:
    """The right answer to a prompt."""
    system, asked = messages[0]["content"], messages[-1]["content"]
    if "careful researcher" in system:
        marked = re.findall(r"«(.*?)»", asked)
        return f"They are alike.\nExplanation: the word {marked[0] if marked else 'none'}"
    word = asked.splitlines()[0].removeprefix("Explanation: the word ")
    texts = re.findall(r"^Text \d+: (.*)$", asked, re.MULTILINE)
    fuzz = "are marked" in system
    said = [word in (re.findall(r"«(.*?)»", text) if fuzz else text.split()) for text in texts]
    return json.dumps([int(one) for one in said])


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            pass

        def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _allowed(self) -> bool:
            given = self.headers.get("Authorization")
            if server.key is None or given == f"Bearer {server.key}":
                return True
            message = {"error": {"message": f"Incorrect API key provided: {given}", "code": "k"}}
            self._send(401, json.dumps(message).encode(), {})
            return False

        def do_GET(self) -> None:
            if self._allowed():
                self._send(200, b'{"object": "list", "data": []}', {})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self._allowed():
                return
            with server.lock:
                server.requests.append(body)
                server._now += 1
                server.at_once = max(server.at_once, server._now)
                count = len(server.requests)
            server.each(count)
            reply = server.next()
            time.sleep(reply.delay)
            try:
                self._send(reply.status, self._body(body, reply), reply.headers)
            except OSError:
                pass  # the client did not wait
            finally:
                with server.lock:
                    server._now -= 1

        def _body(self, asked: dict[str, Any], reply: Reply) -> bytes:
            if reply.body is not None:
                return reply.body
            text = answer(asked["messages"]) if reply.text is None else reply.text
            tokens_in = sum(len(m["content"].split()) for m in asked["messages"])
            tokens_out = len(text.split())
            choice = {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": reply.finish,
            }
            data: dict[str, Any] = {"id": "1", "object": "chat.completion", "choices": [choice]}
            if reply.usage:
                data["usage"] = {
                    "prompt_tokens": tokens_in,
                    "completion_tokens": tokens_out,
                    "total_tokens": tokens_in + tokens_out,
                }
            with server.lock:
                server.answered += 1
                server.tokens += tokens_in + tokens_out
            return json.dumps(data).encode()

    return Handler


@contextmanager
def serving() -> Iterator[Server]:
    """A server while it is needed."""
    server = Server()
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
