"""What `saeworks explain` is asked for. Inert: no torch."""

from pathlib import Path
from urllib.parse import urlsplit

from pydantic.dataclasses import dataclass

from saeworks.config import STRICT, Device
from saeworks.errors import UserError


@dataclass(frozen=True, config=STRICT)
class AskConfig:
    """Explanations by a language model, at any endpoint that speaks OpenAI's protocol."""

    endpoint: str | None = None
    """Base URL, such as http://localhost:8000/v1, of a server that explains latents, too; its key
    is read from the environment."""
    explainer: str | None = None
    """Name of the server's model that explains."""
    scorer: str | None = None
    """Name of the model that judges contexts by an explanation; by default the explainer."""
    key_env: str = "OPENAI_API_KEY"
    """Environment variable with the endpoint's key; a local server needs none."""
    shown: int = 20
    """Contexts of a latent that the explainer is shown: half of them with the largest activations,
    half at random among the others; never ones that are scored."""
    answer_tokens: int = 256
    """Tokens of an answer at most; more for models that think before they answer."""
    price_in: float | None = None
    """Price of a million tokens of prompts, in whatever money."""
    price_out: float | None = None
    """Price of a million tokens of answers."""
    budget: float | None = None
    """Money that this command spends at most, by these prices: it stops before more is spent."""
    budget_tokens: int | None = None
    """Tokens of prompts and answers that this command asks for at most."""
    estimate: bool = False
    """Only say what the explainer would cost, and ask nothing."""
    concurrency: int = 8
    """Requests on their way at once."""
    retries: int = 6
    """Further tries of a request that failed for a reason that may pass."""
    timeout: float = 120.0
    """Seconds after which a request has failed."""
    answers: Path = Path("~/.cache/saeworks/answers.jsonl")
    """File of all answers, by what was asked: nothing is paid for twice, not after an interruption
    either."""

    def __post_init__(self) -> None:
        if self.endpoint is None:
            self._check_alone()
            return
        url = urlsplit(self.endpoint)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise UserError(
                f"--endpoint {self.endpoint!r} is no URL; give one such as http://localhost:8000/v1"
            )
        if url.username or url.password or url.query:
            raise UserError(
                "--endpoint holds a name, key or query, which would be written in results; put the "
                f"key in the environment variable {self.key_env}"
            )
        if not self.explainer:
            raise UserError(
                f"--endpoint {self.endpoint} without a model; name one with --explainer"
            )
        self._check_money()
        bounds = {"shown": 2, "answer_tokens": 16, "concurrency": 1, "retries": 0}
        for name, least in bounds.items():
            if getattr(self, name) < least:
                raise UserError(f"{name} = {getattr(self, name)}: at least {least}")
        if not self.timeout > 0:
            raise UserError(f"timeout = {self.timeout}: seconds above 0")

    def _check_alone(self) -> None:
        """Refuse options that say nothing without an endpoint."""
        for name in ("explainer", "scorer", "price_in", "price_out", "budget", "budget_tokens"):
            if getattr(self, name) is not None:
                raise UserError(
                    f"{name} = {getattr(self, name)!r} without --endpoint; give the URL of the "
                    "server that is asked"
                )
        if self.estimate:
            raise UserError("--estimate without --endpoint: programs cost nothing; leave it out")

    def _check_money(self) -> None:
        """Refuse prices and budgets that bound nothing."""
        for name in ("price_in", "price_out", "budget"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise UserError(f"{name} = {value}: 0 or more")
        if (self.price_in is None) != (self.price_out is None):
            raise UserError("one price alone: give both --price-in and --price-out, 0 for nothing")
        if self.budget is not None and self.price_in is None:
            raise UserError(
                f"budget = {self.budget} without prices; give --price-in and --price-out, or bound "
                "the tokens with --budget-tokens"
            )
        if self.budget_tokens is not None and self.budget_tokens < 1:
            raise UserError(f"budget_tokens = {self.budget_tokens}: at least 1")


@dataclass(frozen=True, config=STRICT)
class ExplainConfig:
    """Explanations of single latents, and how they are scored."""

    tokens: int = 100_000
    """Held-out tokens. A random half of their documents makes the explanations, the other judges
    them."""
    latents: int = 64
    """Latents per site, drawn uniformly from those that fire often enough; all where they are
    fewer."""
    latent: tuple[int, ...] = ()
    """These latents instead, at every site that is measured."""
    site: tuple[str, ...] = ()
    """Only these sites of the suites."""
    least: int = 10
    """Tokens of either half that a latent must fire on; rarer ones are counted, not explained."""
    rules: int = 4
    """Rules of a program at most."""
    contexts: int = 20
    """Contexts with the latent, and as many without, on which detection and fuzzing are scored."""
    concepts: bool = True
    """Also let programs ask for the concepts of tokens: the grammar's of the embedded text, else
    those of simple rules."""
    bootstrap: int = 1000
    """Resamples of the latents, and of the documents, behind each interval."""
    seed: int = 0
    """Seed of the halves, of the choice of latents and contexts, and of the bootstrap."""
    device: Device = "auto"

    def __post_init__(self) -> None:
        least = {"tokens": 2, "latents": 1, "least": 1, "rules": 1, "contexts": 2}
        for name, bound in (least | {"bootstrap": 0, "seed": 0}).items():
            if getattr(self, name) < bound:
                raise UserError(f"{name} = {getattr(self, name)}: at least {bound}")
        if any(latent < 0 for latent in self.latent):
            raise UserError(f"latent = {min(self.latent)}: latents are numbered from 0")
