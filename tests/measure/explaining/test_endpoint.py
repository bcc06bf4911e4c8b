"""Asking a real server on localhost: what fails passes or is said in one line, nothing is paid for
twice, no budget is passed, the key is written nowhere."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from helpers.openai_server import KEY, Reply, Server, failing, serving
from saeworks.errors import UserError
from saeworks.measure.explaining import endpoint as endpoint_module
from saeworks.measure.explaining.answers import Answers, ModelAnswer
from saeworks.measure.explaining.asking import LONGEST, explanation, verdicts
from saeworks.measure.explaining.budget import Bill, BudgetReached, Spent
from saeworks.measure.explaining.config import AskConfig
from saeworks.measure.explaining.endpoint import Endpoint, Request
from saeworks.measure.explaining.prompts import prompt


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(endpoint_module, "_FIRST_WAIT", 0.01)
    with serving() as running:
        yield running


def asked(number: int = 0) -> Request:
    messages = prompt("explain").messages(contexts=f"Text 1: a «word{number}» here {{x}}")
    return Request("m", messages, 64)


Connect = Callable[..., Endpoint]


@pytest.fixture
def connect(server: Server, tmp_path: Path) -> Iterator[Connect]:
    """Connects to the server; closed at the end."""
    with ExitStack() as stack:

        def connected(**options: Any) -> Endpoint:
            config = AskConfig(server.url, "m", **{"timeout": 5.0, "retries": 2} | options)
            endpoint = Endpoint(config, Answers(tmp_path / "answers.jsonl"))
            stack.callback(endpoint.close)
            return endpoint

        yield connected


def test_an_answer_is_kept_and_asked_for_once(server: Server, connect: Connect) -> None:
    endpoint = connect()
    endpoint.check()
    first = endpoint.ask(asked())
    assert explanation(first) == "the word word0"
    assert endpoint.ask(asked()) == first
    assert connect().ask(asked()) == first
    assert len(server.requests) == 1
    assert server.requests[0]["temperature"] == 0 and server.requests[0]["max_tokens"] == 64
    assert endpoint.bill.spent == Spent(first.tokens_in, first.tokens_out, 1)
    assert first.tokens_in + first.tokens_out == server.tokens
    endpoint.ask(asked(1))
    assert len(server.requests) == 2


PASSING = {
    "429": failing(429, Retry_After="0.05"),
    "500": failing(500),
    "503": failing(503, Retry_After="soon"),
    "malformed": Reply(body=b'{"choices": [{'),
    "another protocol": Reply(body=b'["hello"]'),
    "no choice": Reply(body=b'{"choices": []}'),
    "half of the body": Reply(body=b'{"choices"', headers={"Content-Length": "9999"}),
    "too large": Reply(body=b" " * (2**22 + 1)),
    "compressed": Reply(body=b"x", headers={"Content-Encoding": "gzip"}),
    "wrong types": Reply(body=b'{"choices": [{"message": {"content": 7}}]}'),
}


@pytest.mark.parametrize("what", PASSING)
def test_what_may_pass_is_tried_again(what: str, server: Server, connect: Connect) -> None:
    server.replies = [PASSING[what], PASSING[what]]
    assert explanation(connect().ask(asked())) == "the word word0"
    assert len(server.requests) == 3


@pytest.mark.parametrize("what", ["500", "malformed", "half of the body"])
def test_what_does_not_pass_is_said_in_one_line(
    what: str, server: Server, connect: Connect
) -> None:
    server.always = PASSING[what]
    with pytest.raises(UserError, match=r"failed 3 times: .*what was answered is kept") as error:
        connect().ask(asked())
    assert "\n" not in str(error.value)


def test_the_server_says_how_long_to_wait(server: Server, connect: Connect) -> None:
    server.replies = [failing(429, Retry_After="0.6")]
    start = time.monotonic()
    connect().ask(asked())
    assert time.monotonic() - start >= 0.6


def test_a_slow_server_is_given_up_and_counted_as_paid(server: Server, connect: Connect) -> None:
    server.replies = [Reply(delay=1.0)]
    endpoint = connect(timeout=0.3)
    answer = endpoint.ask(asked())
    bound = asked().bound()
    assert endpoint.bill.spent == Spent(
        bound.tokens_in + answer.tokens_in, bound.tokens_out + answer.tokens_out, 2
    )


REFUSED = {
    "wrong key": (failing(401), "a key is refused"),
    "not allowed": (failing(403), "a key is refused"),
    "quota": (failing(429, "insufficient_quota"), "the account's quota is used up"),
    "payment": (failing(402), "the account's quota is used up"),
    "no such model": (failing(404), "refuses requests to the model 'm' .HTTP status 404"),
    "bad request": (failing(400), "refuses requests to the model 'm' .HTTP status 400"),
    "redirect": (Reply(302, {"Location": "http://127.0.0.1:9/"}, b""), "HTTP status 302"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_pass_is_not_tried_again(what: str, server: Server, connect: Connect) -> None:
    reply, message = REFUSED[what]
    server.always = reply
    with pytest.raises(UserError, match=message):
        connect().ask(asked())
    assert len(server.requests) == 1


def test_a_wrong_key_is_refused_before_anything_and_not_repeated(
    server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-987")
    with pytest.raises(UserError, match=r"a key is refused .*OPENAI_API_KEY") as error:
        connect().check()
    assert "sk-wrong-987" not in str(error.value)
    server.always = Reply(400, {}, b'{"error": {"message": "do not send sk-wrong-987"}}')
    server.key = None
    with pytest.raises(UserError, match="do not send …") as error:
        connect().ask(asked())
    monkeypatch.delenv("OPENAI_API_KEY")
    server.key = KEY
    with pytest.raises(UserError, match="a key is needed, and not set"):
        connect().check()


def test_a_server_that_is_not_there_is_refused(server: Server, connect: Connect) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server.url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(UserError, match=r"does not answer .*start the server, or check the URL"):
        connect().check()
    with pytest.raises(UserError, match="failed 3 times"):
        connect().ask(asked())


def test_a_local_server_needs_no_key(
    server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    server.key = None
    endpoint = connect()
    endpoint.check()
    assert explanation(endpoint.ask(asked())) == "the word word0"


def test_the_key_is_written_nowhere(server: Server, connect: Connect, tmp_path: Path) -> None:
    endpoint = connect()
    endpoint.ask(asked())
    assert KEY not in (tmp_path / "answers.jsonl").read_text()
    assert KEY not in json.dumps(endpoint.about())


def test_a_budget_is_never_passed_whatever_is_on_its_way(server: Server, connect: Connect) -> None:
    bound = asked().bound()
    most = 3 * (bound.tokens_in + bound.tokens_out)
    server.always = Reply(delay=0.05, usage=False)  # so that all are counted at their bound
    endpoint = connect(budget_tokens=most)
    reached: list[int] = []

    def ask(number: int) -> None:
        try:
            endpoint.ask(asked(number))
        except BudgetReached:
            reached.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 3 and len(reached) == 5
    assert endpoint.uncounted == 3
    spent = endpoint.bill.spent
    assert spent.tokens_in + spent.tokens_out == most


def test_what_is_on_its_way_makes_room_once_it_is_cheaper_than_its_bound() -> None:
    bill = Bill(AskConfig("http://x/v1", "m", budget=1.0, price_in=1.0, price_out=1.0))
    bound = Spent(900_000, 0, 1)
    begun, order = threading.Event(), []

    def second() -> None:
        begun.wait()
        with bill.request(bound) as charge:
            order.append("second")
            charge.known(10, 0)

    thread = threading.Thread(target=second)
    thread.start()
    with bill.request(bound) as charge:
        begun.set()
        time.sleep(0.1)
        order.append("first")
        charge.known(1000, 0)
    thread.join()
    assert order == ["first", "second"]
    assert bill.spent.money(bill.config) == pytest.approx(1010 / 1e6)
    with pytest.raises(BudgetReached), bill.request(Spent(1_000_000, 0, 1)):
        pass


def test_a_half_written_line_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    answers = Answers(path)
    answers.add("a", ModelAnswer("first", True, 1, 2))
    with path.open("a") as file:
        file.write('\n{"key": "b", "answer": {"te')
    again = Answers(path)
    again.add("c", ModelAnswer("third\u2028", False, 3, 4))
    last = Answers(path)
    assert last.get("a") == ModelAnswer("first", True, 1, 2)
    assert last.get("b") is None
    assert last.get("c") == ModelAnswer("third\u2028", False, 3, 4)


def test_answers_that_cannot_be_kept_are_refused_before_anything(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"answers cannot be kept in .*--answers"):
        Answers(tmp_path / "file" / "answers.jsonl")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="answers cannot be kept"):
        Answers(tmp_path / "link")


@pytest.mark.parametrize(
    ("text", "complete", "expected"),
    [
        ("I think.\nExplanation:  a  b \n c", True, "a b c"),
        ("Explanation: a\nExplanation: b", True, "b"),
        ("Explanation: \x1b[31mred\u202e", True, "\\x1b[31mred\\u202e"),
        ("Explanation: " + "x" * 1000, True, "x" * (LONGEST - 1) + "…"),
        ("Explanation: a", False, None),
        ("Explanation:  ", True, None),
        ("no such thing", True, None),
        ("", True, None),
    ],
)
def test_explanations_are_read_strictly(text: str, complete: bool, expected: str | None) -> None:
    assert explanation(ModelAnswer(text, complete, 0, 0)) == expected


@pytest.mark.parametrize(
    ("text", "complete", "expected"),
    [
        ("[1, 0, 1]", True, [True, False, True]),
        ("Text [1] says so, hence [0,0,\n1]", True, [False, False, True]),
        ("[1, 0]", True, None),
        ("[1, 0, 2]", True, None),
        ("[1, 0, true]", True, None),
        ("1, 0, 1", True, None),
        ("[1, 0, 1]", False, None),
        ("", True, None),
    ],
)
def test_verdicts_are_read_strictly(text: str, complete: bool, expected: list[bool] | None) -> None:
    assert verdicts(ModelAnswer(text, complete, 0, 0), 3) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"endpoint": "localhost"}, "is no URL"),
        ({"endpoint": "ftp://x/v1"}, "is no URL"),
        ({"endpoint": "http://me:secret@x/v1"}, "holds a name, key or query"),
        ({"endpoint": "http://x/v1?key=secret"}, "holds a name, key or query"),
        ({"endpoint": "http://x/v1", "explainer": None}, "without a model"),
        ({"price_in": 1.0}, "one price alone"),
        ({"price_in": -1.0, "price_out": 1.0}, "price_in = -1.0: 0 or more"),
        ({"budget": 1.0}, "budget = 1.0 without prices"),
        ({"budget_tokens": 0}, "budget_tokens = 0: at least 1"),
        ({"concurrency": 0}, "concurrency = 0: at least 1"),
        ({"timeout": 0.0}, "timeout = 0.0: seconds above 0"),
        ({"endpoint": None}, "explainer = 'm' without --endpoint"),
        ({"endpoint": None, "explainer": None, "budget": 2.0}, "budget = 2.0 without --endpoint"),
        ({"endpoint": None, "explainer": None, "estimate": True}, "--estimate without --endpoint"),
    ],
)
def test_options_that_bound_or_name_nothing_are_refused(
    options: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {"endpoint": "http://x/v1", "explainer": "m"} | options
    with pytest.raises(UserError, match=message) as error:
        AskConfig(**given)
    assert "secret" not in str(error.value)


def test_openai_has_one_importer() -> None:
    source = Path(endpoint_module.__file__).parents[2]
    importers = [p.name for p in source.rglob("*.py") if "import openai" in p.read_text()]
    assert importers == ["endpoint.py"]
