"""Merges of the same sources written to folders: here, a share of their files, or by the workers of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from interpole.actors import Actors, Order
from interpole.checkpoints.checkpoint import Checkpoint
from interpole.checkpoints.hub import is_hub_id
from interpole.checkpoints.reduce import OnBytes
from interpole.checkpoints.save import Saved, Target, save_all
from interpole.checkpoints.shards import Share, shards_of
from interpole.errors import OutputError
from interpole.files import make_folder
from interpole.merging.merged import merge_all, open_part
from interpole.merging.recipe import Recipe

__all__ = ["MergeJob", "merges", "save_merges", "write_on_cluster"]

MOST_ORDERS = 64
"""Shares into which a merge is cut for a cluster: each opens the sources anew."""
STREAM_THREADS = 8
"""Where sources are streamed: they wait for the network, not for a core."""


class MergeJob(NamedTuple):
    """What is to be written.

    Attributes:
        recipes: folder → recipe; all have the same sources.
        shard_bytes: about this many in a file of weights; None: as the template source has them.
        share: only these of the files; None: all.
        allow_non_finite: write NaN and infinity, too.
        stream: read sources from the hub as they are needed, without keeping them.
        card: the model card of a merge; None: the plain one.
    """

    recipes: Mapping[Path, Recipe]
    shard_bytes: int | None = None
    share: Share | None = None
    allow_non_finite: bool = False
    stream: bool = False
    card: Callable[[Checkpoint], str] | None = None


def merges(job: MergeJob, seen: Mapping[str, Checkpoint], *, weights: bool = True) -> dict[Path, Checkpoint]:
    """Folder → merge.

    Args:
        job: what is to be written.
        seen: sources that are open already, maybe with headers alone.
        weights: whether tensors are read, and so must be here.

    Raises:
        InterpoleError: a source cannot be opened, or does not fit.
    """
    first = next(iter(job.recipes.values()))
    sources = dict(seen)
    for name, source in first.sources.items():
        partly = isinstance(source, Recipe) or is_hub_id(source.model)  # there may be headers alone
        if name not in sources or (partly and weights):
            sources[name] = open_part(source, weights=weights, stream=job.stream and weights)
    return dict(zip(job.recipes, merge_all(list(job.recipes.values()), sources, weights=weights), strict=True))


def save_merges(job: MergeJob, merged: Mapping[Path, Checkpoint], progress: OnBytes | None = None) -> Saved:
    """Write merges to their folders, or a share of them.

    Raises:
        InterpoleError: they cannot be written, or hold what is no number.
    """
    cards = {out: {} if job.card is None else {"README.md": job.card(one)} for out, one in merged.items()}
    return save_all(
        [Target(checkpoint, out, cards[out]) for out, checkpoint in merged.items()],
        shard_bytes=job.shard_bytes,
        progress=progress,
        allow_non_finite=job.allow_non_finite,
        share=job.share,
        threads=STREAM_THREADS if job.stream else None,
    )


class _Merger:
    """What a worker on a cluster has: this program."""

    def versions(self) -> dict[str, str]:
        """Its version."""
        return {"interpole": version("interpole")}


def _save_share(_: object, job: MergeJob) -> None:
    """Write a share: what a worker on a cluster is ordered to do."""
    save_merges(job, merges(job, {}))


def write_on_cluster(
    job: MergeJob, seen: Mapping[str, Checkpoint], address: str, report: Callable[[str], None]
) -> MergeJob:
    """Have the folders written by the workers of a cluster.

    Args:
        job: what is to be written, whole.
        seen: see `merges`.
        address: of the cluster; `auto`: the one that this machine belongs to.
        report: told in a sentence of workers and shares.

    Returns:
        The job of one share, which finds that all are there.

    Raises:
        InterpoleError: a share failed several times.
    """
    whole = job._replace(recipes={out.absolute(): recipe for out, recipe in job.recipes.items()})
    first = next(iter(merges(whole, seen, weights=job.stream).values()))
    of = min(len(shards_of(first, job.shard_bytes)), MOST_ORDERS)
    folder = next(iter(whole.recipes)).parent
    make_folder(folder)
    orders = [Order(_save_share, (whole._replace(share=Share(number, of)),)) for number in range(1, of + 1)]
    with Actors(_Merger, (), folder, address, what="worker", report=report) as actors:
        for done in actors.do(orders):
            name = f"share {done.order.args[0].share.number} of {of}"
            report(f"{name}: {done.error or f'written on {done.node}'}")
            if done.error and not done.again:
                raise OutputError(done.error, name, "then run the same command again")
    return whole._replace(share=Share(1, of))
