"""A server that speaks OpenAI's protocol. The only importer of `openai`.

Its answers are untrusted: of bounded size, read strictly. The key comes from the environment alone,
and is written nowhere.
"""

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from threading import Event
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as record

from saeworks.errors import UserError, one_line
from saeworks.measure.explaining.answers import Answers, ModelAnswer
from saeworks.measure.explaining.budget import Bill, Spent
from saeworks.measure.explaining.config import AskConfig
from saeworks.measure.explaining.prompts import Message

_LARGEST = 2**22
"""Bytes of a response that are read."""
_LONGEST = 20_000
"""Characters of an answer that are kept."""
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0
"""Seconds before the first further try, doubled each time, and at most."""
_PER_MESSAGE = 16
"""Tokens that a message's form costs at most."""

_OPEN = ConfigDict(extra="ignore", strict=True)


@record(frozen=True, config=_OPEN)
class _Said:
    content: str | None = None


@record(frozen=True, config=_OPEN)
class _Choice:
    message: _Said
    finish_reason: str | None = None


@record(frozen=True, config=_OPEN)
class _Usage:
    prompt_tokens: int
    completion_tokens: int


@record(frozen=True, config=_OPEN)
class _Completion:
    choices: list[_Choice]
    usage: _Usage | None = None


_COMPLETION = TypeAdapter(_Completion)


class RunEnded(Exception):
    """Somebody else has ended the run while this request waited."""


class _TryAgain(Exception):
    """A failure that may pass; its text is the reason."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class Request:
    """One question to a model."""

    model: str
    messages: Sequence[Message]
    answer_tokens: int

    def key(self, endpoint: str) -> str:
        """SHA-256 of everything that the answer depends on."""
        asked = [endpoint, self.model, list(self.messages), self.answer_tokens]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

    def bound(self) -> Spent:
        """The most that it can cost: no tokenizer makes more tokens than there are bytes."""
        size = sum(len(m["content"].encode()) + _PER_MESSAGE for m in self.messages)
        return Spent(size, self.answer_tokens, 1)


class Endpoint:
    """Asks a server: each question once, and again where a failure may pass.

    Args:
        say: where lines about waits go.

    Raises:
        UserError: if `openai` is not installed.
    """

    def __init__(
        self, config: AskConfig, answers: Answers, say: Callable[[str], None] | None = None
    ) -> None:
        try:
            import openai
        except ImportError:
            raise UserError(
                "--endpoint needs the package openai; install it with "
                "pip install 'saeworks[interp]'"
            ) from None
        assert config.endpoint is not None
        self.config, self.answers, self.bill = config, answers, Bill(config)
        self.stop, self.uncounted, self.out_of_budget = Event(), 0, False
        self._say, self._openai = say or (lambda line: None), openai
        self._key = os.environ.get(config.key_env) or None
        http = openai.DefaultHttpxClient(
            timeout=config.timeout,
            follow_redirects=False,
            headers={"Accept-Encoding": "identity"},  # what is small stays small
            event_hooks={"response": [_bounded]},
        )
        self._client = openai.OpenAI(
            api_key=self._key or "none",
            base_url=config.endpoint,
            max_retries=0,
            timeout=config.timeout,
            http_client=http,
        )

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def about(self) -> dict[str, Any]:
        """What was asked, for a result: never the key."""
        config = self.config
        return {
            "endpoint": config.endpoint,
            "explainer": config.explainer,
            "scorer": config.scorer or config.explainer,
            "shown": config.shown,
            "answer_tokens": config.answer_tokens,
        }

    def check(self) -> None:
        """Refuse a server that is not there or refuses the key, before anything long.

        Raises:
            UserError: if so.
        """
        try:
            self._client.models.with_raw_response.list()
        except (self._openai.AuthenticationError, self._openai.PermissionDeniedError) as error:
            raise self._refused(error) from None
        except self._openai.APIConnectionError as error:
            raise UserError(
                f"{self.config.endpoint} does not answer ({self._reason(error)}); start the "
                "server, or check the URL"
            ) from None
        except (self._openai.OpenAIError, ValueError):
            return  # not every server lists its models

    def ask(self, request: Request) -> ModelAnswer:
        """The answer, kept from before or asked for now.

        Raises:
            BudgetReached: if it might cost more than is allowed.
            RunEnded: if the run was ended meanwhile.
            UserError: if the server refuses it, or fails again and again.
        """
        key = request.key(str(self.config.endpoint))
        if (known := self.answers.get(key)) is not None:
            return known
        for attempt in range(self.config.retries + 1):
            if self.stop.is_set():
                raise RunEnded
            try:
                answer = self._try(request)
            except _TryAgain as failure:
                if attempt == self.config.retries:
                    raise UserError(
                        f"{self.config.endpoint} failed {attempt + 1} times: {failure}; run the "
                        "same command later: what was answered is kept"
                    ) from None
                self._wait(attempt, failure)
            else:
                self.answers.add(key, answer)
                return answer
        raise AssertionError("unreachable")

    def _wait(self, attempt: int, failure: _TryAgain) -> None:
        """Wait as long as the server asks, or twice as long as before, a little at random."""
        seconds = min(_FIRST_WAIT * 2**attempt, _LONGEST_WAIT) * random.uniform(0.75, 1.25)
        if failure.wait is not None:
            seconds = min(max(failure.wait, 0.0), _LONGEST_WAIT)
        if seconds >= 5:
            self._say(f"{failure}: next try in {seconds:.0f} s")
        if self.stop.wait(seconds):
            raise RunEnded

    def _try(self, request: Request) -> ModelAnswer:
        """One try.

        Raises:
            _TryAgain: if it failed for a reason that may pass.
        """
        openai = self._openai
        messages: Any = list(request.messages)  # openai has a type for each role
        with self.bill.request(request.bound()) as charge:
            try:
                response = self._client.chat.completions.with_raw_response.create(
                    model=request.model,
                    messages=messages,
                    max_tokens=request.answer_tokens,
                    temperature=0.0,
                )
                body = response.http_response.content
            except openai.APITimeoutError:  # it may have been worked on, and be paid for
                raise _TryAgain(f"no answer in {self.config.timeout:g} s") from None
            except openai.APIConnectionError as error:
                charge.nothing()
                raise _TryAgain(self._reason(error)) from None
            except openai.APIStatusError as error:
                charge.nothing()
                raise self._failure(error) from None
            answer, counted = self._read(body, request)
            if counted:
                charge.known(answer.tokens_in, answer.tokens_out)
            else:
                self.uncounted += 1
            return answer

    def _read(self, body: bytes, request: Request) -> tuple[ModelAnswer, bool]:
        """The answer in a response, and whether the server has counted its tokens; a server that
        does not is taken to have used the most."""
        try:
            read = _COMPLETION.validate_json(body)
        except ValidationError:
            raise _TryAgain("its answer is not what the protocol says") from None
        if not read.choices:
            raise _TryAgain("it answered without a choice")
        choice = read.choices[0]
        text = (choice.message.content or "")[:_LONGEST]
        complete = choice.finish_reason in ("stop", None)
        usage, bound = read.usage, request.bound()
        if usage is None or usage.prompt_tokens < 0 or usage.completion_tokens < 0:
            return ModelAnswer(text, complete, bound.tokens_in, bound.tokens_out), False
        return ModelAnswer(text, complete, usage.prompt_tokens, usage.completion_tokens), True

    def _failure(self, error: Any) -> Exception:
        """What a status other than 200 means."""
        openai, status = self._openai, error.status_code
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return self._refused(error)
        if status == 402 or (status == 429 and error.code == "insufficient_quota"):
            return UserError(
                f"{self.config.endpoint}: the account's quota is used up; raise it there and run "
                "the same command again: what was answered is kept"
            )
        if status in (408, 409, 425, 429) or status >= 500:
            return _TryAgain(f"HTTP status {status}", _retry_after(error.response))
        return UserError(
            f"{self.config.endpoint} refuses requests to the model {self.config.explainer!r} (HTTP "
            f"status {status}: {self._reason(error)}); check the URL and the model's name"
        )

    def _refused(self, error: Any) -> UserError:
        given = "is refused" if self._key else "is needed, and not set"
        return UserError(
            f"{self.config.endpoint}: a key {given} (HTTP status {error.status_code}); put a valid "
            f"one in the environment variable {self.config.key_env}"
        )

    def _reason(self, error: BaseException) -> str:
        """An error's text on a short line, without the key, which some servers repeat."""
        text = one_line(error.__cause__ or error)
        return text.replace(self._key, "…") if self._key else text


def _retry_after(response: Any) -> float | None:
    """The seconds that a server asks to wait, as a number; None if it says nothing of use."""
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if seconds == seconds else None


def _bounded(response: Any) -> None:
    """Have a response's body end in an error where it is too large to be an answer."""
    http = import_module(type(response).__module__.partition(".")[0])  # what openai stands on
    whole = response.stream

    class Body(http.SyncByteStream):  # type: ignore[misc,name-defined]
        def __iter__(self) -> Iterator[bytes]:
            size = 0
            for part in whole:
                size += len(part)
                if size > _LARGEST:
                    raise http.ReadError(f"an answer of more than {_LARGEST:,} bytes")
                yield part

        def close(self) -> None:
            whole.close()

    if response.headers.get("content-encoding", "identity") != "identity":
        raise http.ReadError("an answer that is compressed, which was not asked for")
    response.stream = Body()
