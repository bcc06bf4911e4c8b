"""The measurement behind `saeworks bench lm`: what capturing one site costs of a whole forward."""

import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch

from saeworks.config import ModelConfig
from saeworks.cost.machine import Neighbours, processor
from saeworks.errors import UserError
from saeworks.lm.device import choose_device
from saeworks.lm.model import LanguageModel


def bench_lm(
    model: str = "embedded",
    site: str = "0@resid",
    batch: int = 8192,
    context: int = 128,
    threads: int | None = None,
    device: str = "auto",
    rounds: int = 5,
) -> dict[str, Any]:
    """Time the whole forward and one stopped at a site, in turn, on random tokens.

    Raises:
        UserError: if an option is out of range, or `site` is not exactly one site.
    """
    sizes = {"batch": batch, "context": context, "rounds": rounds, "threads": threads}
    for name, value in sizes.items():
        if value is not None and value < 1:
            raise UserError(f"bench lm: {name} = {value} must be at least 1")
    lm = LanguageModel.load(ModelConfig(name=model), choose_device(device))
    sites = lm.sites([site])
    if len(sites) != 1:
        raise UserError(f"bench lm: site {site!r} selects {len(sites)} sites; name one")
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        tokens_BT = torch.randint(
            lm.vocabulary,
            (max(1, batch // context), context),
            generator=torch.Generator().manual_seed(0),
        ).to(lm.device)
        measures = _alternate(lm, tokens_BT, sites[0], rounds)
        used = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
    return {
        "model": model,
        "site": sites[0],
        "layers": lm.layers,
        "batch": tokens_BT.numel(),
        "context": context,
        "threads": used,
        "device": str(lm.device),
        **measures,
        "processor": processor(),
        "torch": torch.__version__,
    }


def _alternate(
    lm: LanguageModel, tokens_BT: torch.Tensor, site: str, rounds: int
) -> dict[str, Any]:
    def whole() -> None:
        lm.run(tokens_BT, logits=True)

    def stopped() -> None:
        lm.run(tokens_BT, {site: lambda x_BTD: None})

    for warm_up in (whole, stopped):
        _seconds(lm, warm_up)
    neighbours = Neighbours()
    pairs = [(_seconds(lm, whole), _seconds(lm, stopped)) for _ in range(rounds)]
    quiet, reason = neighbours.verdict()
    share = [part / all_ for all_, part in pairs]
    return {
        "tokens_per_second": tokens_BT.numel() / statistics.median(part for _, part in pairs),
        "seconds_whole": _spread([all_ for all_, _ in pairs]),
        "seconds_stopped": _spread([part for _, part in pairs]),
        "share_of_whole": _spread(share),
        "rounds": rounds,
        "quiet": quiet,
        "quiet_reason": reason,
    }


def _seconds(lm: LanguageModel, work: Callable[[], None]) -> float:
    start = perf_counter()
    with torch.no_grad():
        work()
    if lm.device.type == "cuda":
        torch.cuda.synchronize(lm.device)
    return perf_counter() - start


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
