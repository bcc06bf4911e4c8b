"""`saeworks convert`: suites into other libraries' folders, and those into suites."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction

from saeworks.cli.arguments import Json
from saeworks.cli.printing import command, print_json, say, speaker
from saeworks.config import ModelConfig
from saeworks.errors import DONE, UserError
from saeworks.files.folders import owner


@dataclass(frozen=True)
class Convert:
    """Convert a suite to SAELens's folders, or SAELens, sparsify or Gemma Scope to a suite.

    Either way the SAEs are on raw activations and compute the same. The language model is loaded,
    to find the places in it.
    """

    source: Annotated[Path, Positional]
    """A suite; or a folder of SAELens 6, EleutherAI's sparsify or Gemma Scope, of one SAE or with
    several below it."""
    out: Annotated[Path, Positional]
    """A new folder."""
    to: Literal["saelens", "saeworks"]
    """What it becomes."""
    model: str | None = None
    """Another language model than the files name: a Hugging Face id, a folder, or `embedded`."""
    text: str | None = None
    """Another text than the files name, for evaluations of the suite that is written."""
    site: Annotated[tuple[str, ...], UseAppendAction] = ()
    """To SAELens: only these sites. To a suite: the site of each SAE, in the order of the folders'
    names, instead of those that the files name. As often as needed."""
    json: Json = False

    def __call__(self) -> int:
        """Run it; nothing is written unless all of it is."""
        from saeworks.interop.base import check_new_folder

        to_suite = self.to == "saeworks"
        if not to_suite and self.text is not None:
            raise UserError("--text is for --to saeworks; a suite's own text goes with it")
        check_new_folder(self.out)
        if to_suite and (other := owner(self.out.parent)) is not None:
            raise UserError(
                f"{self.out} lies in {other}, another run or suite; choose another destination"
            )
        written = self._import() if to_suite else self._export()
        if self.json:
            print_json({"out": str(self.out), "format": self.to, "sites": written})
            return DONE
        say(f"{self.out}: {len(written)} SAE(s): {', '.join(written)}")
        if to_suite:
            say(f"Next: {command('eval', self.out)} && {command('report', self.out)}")
        return DONE

    def _export(self) -> list[str]:
        """The sites of a suite that were written in another format."""
        from saeworks.interop import suites
        from saeworks.lm.model import LanguageModel
        from saeworks.measure.asked import check_fingerprint
        from saeworks.suite import load_suite

        suite = load_suite(self.source)
        model = suite.run.model
        if self.model is not None:
            model = replace(model, name=self.model, revision=None)
        lm = LanguageModel.load(model)
        if self.model is None:
            check_fingerprint(suite, lm)
        sites = lm.sites(list(self.site)) if self.site else None
        return list(suites.export(suite, self.out, self.to, lm, sites))

    def _import(self) -> list[str]:
        """The sites of another library's SAEs that were written as a suite."""
        from saeworks.interop import suites
        from saeworks.lm.documents import check_file
        from saeworks.lm.model import LanguageModel

        saes = suites.read_all(self.source)
        config = suites.model_of(saes) if self.model is None else ModelConfig(name=self.model)
        lm = LanguageModel.load(config)
        if self.model is None:
            suites.check_model(saes, lm)
        for sae in saes:
            if sae.note:
                speaker(as_json=True)(f"saeworks: note: {sae.path} {sae.note}")
        text = suites.text_of(saes, self.text, lm)
        if self.text is not None:
            check_file(text)
        return suites.write(saes, self.out, lm, config, text, list(self.site) or None)
