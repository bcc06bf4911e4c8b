"""One layer's SAE on the activations of another."""

from pathlib import Path
from typing import Any

from saeworks.config import EvalConfig
from saeworks.lm.model import LanguageModel
from saeworks.measure import engine
from saeworks.measure.studies.reconstruction import Reconstruction
from saeworks.measure.studies.splice import Splice
from saeworks.measure.suites import held_out_tokens
from saeworks.suite import load_suite


def measure(path: Path, tokens: int) -> dict[str, Any]:
    """FVU and ΔCE on held-out text: site of the SAE → site that it is applied to."""
    suite = load_suite(path)
    normalisers = {site: suite.normaliser(site) for site in suite.sites}
    banks = {
        trained: {
            site: suite.trained(trained).folded(at.mean, at.scale)
            for site, at in normalisers.items()
        }
        for trained in suite.sites
    }
    lm = LanguageModel.load(suite.run.model)
    held_out = held_out_tokens(lm, suite.run.text, suite.run.seed, tokens)
    settings = EvalConfig(tokens, splice_tokens=tokens, bootstrap=200)
    subject = engine.Subject.of(banks, lm, held_out)
    reconstruction = Reconstruction(subject, settings)
    splice = Splice(subject, settings, reconstruction.means)
    results = dict(
        zip(("fvu", "delta_ce"), engine.measure(lm, [reconstruction, splice]), strict=True)
    )
    values = {
        trained: {
            site: {
                metric: result[trained].result.sites[site][metric].value
                for metric, result in results.items()
            }
            for site in suite.sites
        }
        for trained in suite.sites
    }
    return {"tokens": held_out.kept, "values": values}
