"""`saeworks steer`: suites steered, results written into each."""

from collections.abc import Callable, Sequence
from pathlib import Path

from saeworks.config import ModelConfig, TextConfig
from saeworks.measure.steering.config import SteeringConfig
from saeworks.measure.steering.study import SteeringStudy
from saeworks.measure.suites import StudySet, loaded, measure_suites
from saeworks.results.result import Result


def steer(
    suite_paths: Sequence[Path],
    config: SteeringConfig,
    say: Callable[[str], None] | None = None,
    *,
    model: ModelConfig | str | None = None,
    text: TextConfig | str | None = None,
) -> dict[Path, Result]:
    """Steer suites and write `results/steer.json` into each; suites of the same model and text on
    the same prompts.

    Args:
        say: where lines about progress go; None for silence.
        model, text: others than the suite's own; see `saeworks.measure.run.evaluate`.

    Raises:
        UserError: as `measure_suites`; if a site, concept, latent or task does not exist, a latent
            never fires, or a concept has too few tokens or prompts.
    """
    asked = StudySet(config.tokens, lambda subject, work: [SteeringStudy(subject, config, work)])
    (results,) = measure_suites(
        loaded(suite_paths), [asked], config.device, say, model=model, text=text
    )
    return {
        path: result
        for path, of_suite in results.items()
        for result in of_suite
        if isinstance(result, Result)
    }
