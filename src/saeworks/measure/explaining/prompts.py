"""The prompts, which are data files: a system message, examples, and a form for what is asked."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Literal

from pydantic.dataclasses import dataclass

from saeworks.config import STRICT
from saeworks.files.safe_yaml import load_yaml
from saeworks.results.records import parse

Message = Mapping[str, str]


@dataclass(frozen=True, config=STRICT)
class Example:
    """A question and its answer."""

    user: str
    assistant: str


@dataclass(frozen=True, config=STRICT)
class ChatPrompt:
    """One file of `prompts/`."""

    system: str
    examples: list[Example]
    user: str
    """With places for what is asked, such as {explanation}."""

    def messages(self, **asked: str) -> list[Message]:
        """The conversation that ends with the question. What is asked is put in as it is: braces in
        it are text."""
        shown = [
            _message(role, text)
            for example in self.examples
            for role, text in (("user", example.user), ("assistant", example.assistant))
        ]
        asked_now = self.user.format_map(asked)
        return [_message("system", self.system), *shown, _message("user", asked_now)]


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content.strip()}


@cache
def prompt(name: Literal["explain", "detect", "fuzz"]) -> ChatPrompt:
    """A prompt of the package."""
    text = (files(__package__) / "prompts" / f"{name}.yaml").read_text(encoding="utf-8")
    return parse(ChatPrompt, load_yaml(text), f"prompts/{name}.yaml", "install saeworks anew")
