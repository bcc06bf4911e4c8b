"""What a training run on the error of another suite's SAEs adds to one on activations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from saeworks.activations.base import ActivationSource
from saeworks.activations.error import ErrorSource, Linear
from saeworks.activations.live import Reader, Stream
from saeworks.config import ErrorConfig
from saeworks.dictionary.base import SAE
from saeworks.errors import UserError
from saeworks.lm.model import LanguageModel
from saeworks.measure.asked import check_fingerprint
from saeworks.measure.audit.linear_error import LinearError, check_tokens, fit_linear_errors
from saeworks.measure.banks import sites_of
from saeworks.suite import Suite, load_suite


@dataclass
class ErrorTarget:
    """The suite whose error is trained on.

    Attributes:
        bank: site → its SAE on raw activations, at the run's sites.
        fitted: site → ℓ, once that is known.
    """

    config: ErrorConfig
    suite: Suite
    digest: str
    bank: dict[str, SAE]
    fitted: dict[str, LinearError] = field(default_factory=dict)
    _source: ErrorSource | None = field(default=None, repr=False)

    @classmethod
    def load(
        cls, config: ErrorConfig, widths: Mapping[str, int], lm: LanguageModel
    ) -> "ErrorTarget":
        """Read the suite.

        Args:
            widths: the run's sites.

        Raises:
            UserError: if there is no such suite, it is of another model, is itself on the error of
                others, lacks one of the sites, or there are too few tokens to fit ℓ on.
        """
        suite = load_suite(config.suite)
        check_fingerprint(suite, lm)
        whole = suite.bank()
        missing = [site for site in widths if site not in whole]
        if missing:
            raise UserError(
                f"error.suite: {suite.path} has no SAE at {', '.join(missing)}; set sites to some "
                f"of {', '.join(whole)}"
            )
        bank = {site: whole[site].to(lm.device) for site in widths}
        sites_of({str(suite.path): bank}, lm)
        if config.component != "e":
            check_tokens(config.tokens, bank)
        return cls(config, suite, suite.digest(), bank)

    def source(self, inner: ActivationSource, lm: Reader, stream: Stream) -> ErrorSource:
        """The error of the inner source's rows.

        Args:
            stream: the training text from its beginning, to fit ℓ on.
        """

        def fit(tick: Callable[[float], None]) -> Mapping[str, Linear]:
            self.fitted = fit_linear_errors(
                lm, stream, self.bank, self.config.tokens, tick, inner.limits
            )
            return {site: error.map for site, error in self.fitted.items()}

        self._source = ErrorSource(inner, self.bank, self.config.component, fit)
        return self._source

    def record(self) -> dict[str, Any]:
        """What a suite says and holds of it: arguments of `write_suite`."""
        if self._source is not None:
            self._source.linear()  # a run that was resumed at its end has drawn no row
        error = {
            "component": self.config.component,
            "suite": self.config.suite,
            "variant": self.suite.variant,
            "digest": self.digest,
            "fit": {site: fit.facts() for site, fit in self.fitted.items()},
        }
        maps = {site: fit.tensors() for site, fit in self.fitted.items()}
        return {"error": error, "error_maps": maps}
