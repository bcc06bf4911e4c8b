"""What `saeworks convert` does: suites into other libraries' folders, and those into suites."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from saeworks.cli.printing import command, say, speaker
from saeworks.config import ModelConfig
from saeworks.errors import DONE, UserError
from saeworks.files.folders import owner
from saeworks.interop.base import check_new_folder
from saeworks.lm.documents import check_file
from saeworks.lm.model import LanguageModel
from saeworks.measure.asked import check_fingerprint
from saeworks.suite import load_suite


def convert(
    source: Path,
    out: Path,
    to: str,
    *,
    model: str | None = None,
    text: str | None = None,
    sites: Sequence[str] = (),
    as_json: bool = False,
) -> int:
    """A suite into another library's folders, or those into a suite; nothing is written unless
    all of it is."""
    if to != "saeworks" and text is not None:
        raise UserError("--text is for --to saeworks; a suite's own text goes with it")
    check_new_folder(out)
    if to == "saeworks" and (other := owner(out.parent)) is not None:
        raise UserError(f"{out} lies in {other}, another run or suite; choose another destination")
    if to == "saeworks":
        written = _import(source, out, model, text, list(sites) or None)
    else:
        written = _export(source, out, to, model, list(sites) or None)
    if as_json:
        print(json.dumps({"out": str(out), "format": to, "sites": written}))
        return DONE
    say(f"{out}: {len(written)} SAE(s): {', '.join(written)}")
    if to == "saeworks":
        say(f"Next: {command('eval', out)} && {command('report', out)}")
    return DONE


def _export(
    source: Path, out: Path, to: str, model: str | None, patterns: list[str] | None
) -> list[str]:
    """The sites of a suite that were written in another format."""
    from saeworks.interop import suites

    suite = load_suite(source)
    own = suite.run.model
    lm = LanguageModel.load(own if model is None else replace(own, name=model, revision=None))
    if model is None:
        check_fingerprint(suite, lm)
    return list(suites.export(suite, out, to, lm, lm.sites(patterns) if patterns else None))


def _import(
    source: Path,
    out: Path,
    model: str | None,
    text: str | None,
    patterns: list[str] | None,
) -> list[str]:
    """The sites of another library's SAEs that were written as a suite."""
    from saeworks.interop import suites

    found = suites.read_all(source)
    config = suites.model_of(found) if model is None else ModelConfig(name=model)
    lm = LanguageModel.load(config)
    if model is None:
        suites.check_model(found, lm)
    for one in found:
        if one.note:
            speaker(as_json=True)(f"saeworks: note: {one.path} {one.note}")
    own_text = suites.text_of(found, text, lm)
    if text is not None:
        check_file(own_text)
    return suites.write(found, out, lm, config, own_text, patterns)
