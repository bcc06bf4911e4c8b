"""One layer's SAE on the activations of another."""

from pathlib import Path
from typing import Any

from saeworks.config import EvalConfig
from saeworks.lm.model import LanguageModel
from saeworks.measure.run import held_out_tokens
from saeworks.measure.studies.reconstruction import reconstruction
from saeworks.measure.studies.splice import splice
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
    settings = EvalConfig(bootstrap=200)
    results = {
        "fvu": reconstruction(banks, lm, held_out, settings),
        "delta_ce": splice(banks, lm, held_out, settings),
    }
    values = {
        trained: {
            site: {
                metric: result[trained].sites[site][metric].value
                for metric, result in results.items()
            }
            for site in suite.sites
        }
        for trained in suite.sites
    }
    return {"tokens": held_out.kept, "values": values}
