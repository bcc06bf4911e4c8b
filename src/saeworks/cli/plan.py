"""`saeworks plan`: distances between sites, the groups that follow, and their page."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from saeworks.cli.arguments import Json, Model, SameAs, Text
from saeworks.cli.printing import print_json, say, speaker
from saeworks.config import Device, ModelConfig, RunConfig, TextConfig, TrainConfig
from saeworks.errors import DONE, UserError
from saeworks.files.folders import make_ready
from saeworks.results.names import PLAN

if TYPE_CHECKING:
    from saeworks.groups.distances import AngularDistances
    from saeworks.lm.model import LanguageModel
    from saeworks.results.plan import Plan as GroupPlan


PREPARED = 200
"""Documents of the run whose operations are counted; its text changes none of them."""


@dataclass(frozen=True)
class Plan:
    """Measure which sites are alike and group them: plan.json, and a page with heat maps.

    Distances are mean angles between the activations of two sites, raw and mean-centred; of each
    group the largest counts (AMAD: on average over the groups).
    """

    model: Model = "embedded"
    text: Text = "embedded"
    out: Path | None = None
    """Folder of plan.json and index.html: runs/plan-<name of the model> by default."""
    sites: tuple[str, ...] = ("*@resid",)
    """Module names with `*` within one segment, or aliases such as `*@attn`; all of one width."""
    last: bool = False
    """Keep the last block's output where a `*` selects it: it lives in the unembedding's space."""
    tokens: int = 1_000_000
    """Tokens to average over (fewer where the text has fewer)."""
    groups: int | None = None
    """How many groups: by default the fewest whose AMAD is below --threshold."""
    threshold: float = 0.2
    """See --groups."""
    method: Literal["complete", "contiguous", "even"] = "complete"
    """Complete linkage, the best partition into neighbours, or neighbours in equal numbers."""
    objective: Literal["amad", "weighted", "max"] | None = None
    """What `contiguous` minimises: AMAD by default, AMAD weighted by size, the largest distance."""
    matrix: Literal["raw", "centred"] = "raw"
    """The distances that the groups follow from."""
    context: Annotated[int, SameAs(TextConfig, "context")] = 128
    max_documents: Annotated[int | None, SameAs(TextConfig, "max_documents")] = None
    seed: int = 0
    """Fixes the order of the text."""
    device: Device = "auto"
    json: Json = False

    def __call__(self) -> int:
        """Run it."""
        from saeworks.groups.plan import make_plan
        from saeworks.report.plan import write_plan_page

        out = self.out or Path("runs") / f"plan-{Path(self.model).name}"
        self._check()
        make_ready(out)
        lm, distances = self._measured()
        plan = make_plan(
            distances,
            self.groups,
            method=self.method,
            objective=self.objective,
            threshold=self.threshold,
            matrix=self.matrix,
        )
        plan = _with_savings(plan, lm)
        path = out / PLAN
        plan.write(path)
        page = write_plan_page(path, out)
        if self.json:
            curve = [point.amad for point in plan.curve]
            groups = {"groups": plan.groups, "curve": curve, "saving": plan.saving}
            print_json({"plan": str(path), "page": str(page), **groups})
            return DONE
        print_plan(plan)
        say(f"Plan: {path}")
        say(f"Page: {page}")
        return DONE

    def _check(self) -> None:
        """Refuse what makes no plan before anything is measured.

        Raises:
            UserError: if there is something.
        """
        from saeworks.groups.partition import check_method

        check_method(self.method, self.objective)
        if self.groups is not None and self.groups < 1:
            raise UserError(f"--groups {self.groups}: at least 1")
        if not self.threshold > 0:
            raise UserError(f"--threshold {self.threshold}: it must be above 0, as 0.2 is")

    def _measured(self) -> "tuple[LanguageModel, AngularDistances]":
        """The language model, and the distances between its sites."""
        from saeworks.groups.distances import angular_distances, choose_sites
        from saeworks.lm.device import choose_device
        from saeworks.lm.model import LanguageModel

        lm = LanguageModel.load(ModelConfig(name=self.model), choose_device(self.device))
        sites = choose_sites(lm, self.sites, last=self.last)
        if self.groups is not None and self.groups > len(sites):
            raise UserError(
                f"--groups {self.groups}: there are {len(sites)} sites, {', '.join(sites)}"
            )
        tell = speaker(self.json)
        if left_out := lm.left_out(self.sites):
            tell(left_out)
        distances = angular_distances(
            lm,
            TextConfig(source=self.text, context=self.context, max_documents=self.max_documents),
            self.sites,
            self.tokens,
            last=self.last,
            seed=self.seed,
            tick=_tenths(tell),
        )
        return lm, distances


def _with_savings(plan: "GroupPlan", lm: "LanguageModel") -> "GroupPlan":
    """The plan with what every number of groups saves, for the SAEs of a run's defaults."""
    from saeworks.cost.estimate import predicted
    from saeworks.train.live_job import LiveJob

    config = RunConfig(
        model=ModelConfig(name=lm.name),
        text=TextConfig(max_documents=PREPARED),
        sites=plan.sites,
        train=TrainConfig(eval_every=0),
    )
    try:
        work = LiveJob.prepare(config, lm).work
    except UserError:  # a model too small for those SAEs
        return plan
    (sae,) = config.saes
    return replace(
        plan,
        saving=tuple(group.saving for group in predicted(work).groups),
        saving_of=f"{sae['arch']}, {sae['expansion']}×, k {sae['k']}",
    )


def _tenths(tell: Callable[[str], None]) -> Callable[[float], None]:
    """Says at every tenth of the work how far it is."""
    tenths = 0

    def tick(share: float) -> None:
        nonlocal tenths
        if int(10 * share) > tenths:
            tenths = int(10 * share)
            tell(f"distances: {10 * tenths}%")

    return tick


def print_plan(plan: "GroupPlan") -> None:
    """A row per group, and what is known of every number of groups."""
    from saeworks.cli.tables import print_table
    from saeworks.results.groups import diameters

    say(
        f"{plan.model}: {len(plan.groups)} groups by {plan.method}, over {plan.tokens:,} tokens of "
        f"{plan.documents:,} documents"
    )
    largest = diameters(plan.measured, plan.partition)
    rows = [
        [name, ", ".join(sites), f"{distance:.3f}"]
        for (name, sites), distance in zip(plan.groups.items(), largest, strict=True)
    ]
    print_table(["group", "sites", "largest distance"], rows, words=2)
    amads = ", ".join(f"{point.groups}: {point.amad:.3f}" for point in plan.curve)
    say(f"AMAD by number of groups: {amads}")
    if plan.saving is not None:
        saved = ", ".join(f"{groups}: {share:.0%}" for groups, share in enumerate(plan.saving, 1))
        say(f"operations saved against one SAE per site ({plan.saving_of}): {saved}")
