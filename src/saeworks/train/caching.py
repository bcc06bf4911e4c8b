"""Writes the activations of a run's sites to disk: `saeworks cache`."""

import shutil
from dataclasses import asdict, replace
from itertools import takewhile
from pathlib import Path

import torch
from torch import Tensor

from saeworks.activations.cache import (
    CACHE_SCHEMA,
    INDEX,
    CacheIndex,
    CacheWriter,
    is_intact,
    read_index,
)
from saeworks.activations.ring import DTYPES, Slots, ring_slots
from saeworks.config import RunConfig, show_bytes
from saeworks.errors import UserError
from saeworks.measure.banks import for_each_site
from saeworks.measure.held_out import HeldOut
from saeworks.measure.progress import tracker
from saeworks.measure.studies.outliers import without
from saeworks.suite import text_digest
from saeworks.train.base import Say
from saeworks.train.cached_job import read_rows
from saeworks.train.interrupt import Stopped, StopRequest
from saeworks.train.live_job import LiveJob
from saeworks.train.run_dir import check_place, claimed, differences

_SPARE = 2**24
"""Bytes that are left free for the index and the file system."""


def write_cache(config: RunConfig, out: Path, say: Say) -> bool:
    """Write what the run would read, or go on where an earlier call stopped; False where it was
    interrupted.

    Raises:
        UserError: if the folder holds something else, the disk is too small, or the text ends.
    """
    if config.source.cache is not None or config.error is not None:
        raise UserError("a cache holds activations of a language model; leave out source and error")
    check_place(out)  # before anything is loaded
    job = LiveJob.prepare(config)
    if left_out := job.lm.left_out(config.sites):
        say(left_out)
    with claimed(out, say):
        writer = CacheWriter(out, _begun(out, _index(job), say))
        index = writer.index
        if index.finished:
            say(f"{out} is finished already; nothing was changed")
            return True
        _check_disk(job, index, out, say)
        with StopRequest() as stop:
            try:
                _write(job, writer, stop, say)
            except Stopped:
                done = writer.index.written
                say(
                    f"interrupted after {done:,} of {index.tokens:,} tokens; run the same command "
                    "again to go on"
                )
                return False
    say(f"made {out}: {index.tokens:,} tokens at {len(index.sites)} sites")
    return True


def _index(job: LiveJob) -> CacheIndex:
    """What the cache of a run is to be."""
    config, train = job.config, job.config.train
    slots = ring_slots(config.buffer, job.widths, train.batch, train.tokens)
    buffer = asdict(config.buffer)
    keys = ("memory", "dtype", "lm_batch", "exclude_norm_above")
    return CacheIndex(
        schema=CACHE_SCHEMA,
        finished=False,
        model=dict(job.model),
        config={
            "model": asdict(config.model),
            "text": asdict(config.text),
            "sites": list(config.sites),
            "seed": config.seed,
            "buffer": {key: buffer[key] for key in keys},
        },
        text_digest=text_digest(config.text.source),
        sites=dict(job.widths),
        dtype=config.buffer.dtype,
        tokens=read_rows(train, slots),
        shard=slots,
        limits={},
    )


def _begun(out: Path, wanted: CacheIndex, say: Say) -> CacheIndex:
    """What is there of the wanted cache, up to the first shard that is not as it was written.

    Raises:
        UserError: if the folder holds another cache, or something else.
    """
    if not (out / INDEX).exists():
        if other := next((path for path in out.iterdir() if path.name != ".lock"), None):
            raise UserError(f"{out} holds {other.name} and no cache; choose another --out")
        return wanted
    index = read_index(out)
    kept = tuple(takewhile(lambda shard: is_intact(out, shard), index.shards))
    empty = replace(index, shards=(), held_out=None, finished=False, limits={})
    different = differences(asdict(empty), asdict(wanted))
    if different:
        raise UserError(
            f"{out} holds another cache ({'; '.join(different)}); choose another --out, or delete "
            "that folder"
        )
    held_out = index.held_out if index.held_out and is_intact(out, index.held_out) else None
    whole = len(kept) == len(index.shards) and held_out == index.held_out
    if not whole:
        say(f"repairing {out}: a file is missing or corrupt")
    return replace(index, shards=kept, held_out=held_out, finished=index.finished and whole)


def _check_disk(job: LiveJob, index: CacheIndex, out: Path, say: Say) -> None:
    """Say how large the cache will be.

    Raises:
        UserError: if the disk is too small for it.
    """
    held_out = job.config.train.eval_tokens if job.config.train.eval_every else 0
    size = (index.tokens + held_out) * index.row_bytes
    left = size - index.written * index.row_bytes
    free = shutil.disk_usage(out).free
    say(
        f"cache: {index.tokens:,} tokens at {len(index.sites)} sites in {index.dtype}, "
        f"{show_bytes(size)}; {show_bytes(left)} to write, {show_bytes(free)} free"
    )
    if left + _SPARE > free:
        raise UserError(
            f"{out}: the cache needs {show_bytes(left)} and {show_bytes(free)} are free; "
            "lower train.tokens, choose fewer sites, set buffer.dtype to bfloat16, or choose "
            "another --out"
        )


def _write(job: LiveJob, writer: CacheWriter, stop: StopRequest, say: Say) -> None:
    """The shards that are missing, then the held-out part."""
    index, config = writer.index, job.config
    rows = job.rows()
    slots = Slots(rows, index.shard, index.dtype)
    with tracker(say)("cache", index.tokens - index.written) as tick:
        told = 0

        def filling(share: float) -> None:
            nonlocal told
            done = round(share * index.shard)
            tick(done - told)
            told = done
            stop.check()

        if config.buffer.exclude_norm_above is not None and not index.limits:
            slots.set_limits(config.buffer.exclude_norm_above, lambda share: stop.check())
            writer.index = replace(index, limits=rows.limits)
        if writer.index.shards:
            _go_on(slots, writer.index)
        while writer.index.written < index.tokens:
            told = 0
            fill = slots.straight()
            slots.fill(fill, filling)
            end = slots.feed.position()
            writer.add(slots.planes, slots.document, slots.position, fill.epoch, end)
    if config.train.eval_every and writer.index.held_out is None:
        writer.hold_out(*_held_out(job, writer.index))
    writer.finish()


def _go_on(slots: Slots, index: CacheIndex) -> None:
    """To where the last shard ends."""
    slots.feed.rows.limits = dict(index.limits)
    slots.feed.seek(index.shards[-1].end or {})


def _held_out(job: LiveJob, index: CacheIndex) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """The rows that a run on the language model is checked on: planes, documents, positions."""
    stream = job.corpus.stream("held_out", job.sequences, epochs=1)
    held_out = HeldOut.take(stream, job.config.train.eval_tokens)
    if index.limits:
        held_out = without(job.lm, held_out, index.limits)
    planes: dict[str, list[Tensor]] = {site: [] for site in index.sites}
    dtype = DTYPES[index.dtype]

    def keep(site: str, x_ND: Tensor, batch: HeldOut) -> None:
        planes[site].append(x_ND.to("cpu", dtype))

    for_each_site(job.lm, list(planes), held_out, keep, lambda done: None)
    keep_NT = held_out.keep_NT
    place_NT = torch.arange(keep_NT.shape[1], dtype=torch.int32).expand(keep_NT.shape)
    return (
        {site: torch.cat(parts) for site, parts in planes.items()},
        held_out.document_NT[keep_NT],
        place_NT[keep_NT],
    )
