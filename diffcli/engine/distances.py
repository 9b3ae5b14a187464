"""The measures of sets of pictures: distances to held-out images with the floor of real ones beside them, and copies."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor

from diffcli.engine.compared import features
from diffcli.engine.records import Record
from diffcli.engine.refusals import pictures, refusing
from diffcli.metrics import frechet, kernel, manifold
from diffcli.metrics.memorization import closer, memorized, nearest

if TYPE_CHECKING:
    from diffcli.engine.evaluate import Bench


def share(hits: Tensor) -> tuple[float, float]:
    """(mean, standard error) of answers (n,) that hold or not; the error of one more of each, so that it is never 0."""
    n, k = len(hits), int(hits.sum())
    p = (k + 1) / (n + 2)
    return k / n, math.sqrt(p * (1 - p) / n)


@refusing(pictures("fd", 2))
def fd(bench: Bench) -> Iterator[Record]:
    """Frechet distance between samples and held-out images, and its floor: training images in place of samples."""
    for it in bench.compared:
        size, few = it.extractor.size, min(len(it.drawn), len(it.real))
        value = frechet.between(frechet.moments(it.drawn), it.real_moments)
        floor = frechet.between(frechet.moments(it.floor), it.real_moments)
        more: Record = {"floor": floor, **it.facts()}
        doubts = [more["warning"]] if "warning" in more else []
        if few <= size:
            whose = "n" if few == len(it.drawn) else "reference"
            doubts.append(
                f"{whose} = {few} is not above the {size} features: the covariance is singular and the distance biased"
            )
        if doubts:
            more["warning"] = "; ".join(doubts)
        yield bench.record(f"fd[{it.extractor.name}]", value, **more)


@refusing(pictures("kd", 3))
def kd(bench: Bench) -> Iterator[Record]:
    """Kernel distance between samples and held-out images over all pairs, its jackknife error, and its floor."""
    for it in bench.compared:
        value, error = kernel.between(kernel.within(it.drawn), it.real_kernel)
        floor, floor_error = kernel.between(kernel.within(it.floor), it.real_kernel)
        more = {"standard_error": error, "floor": floor, "floor_error": floor_error}
        yield bench.record(f"kd[{it.extractor.name}]", value, **more, **it.facts())


@refusing(pictures("prdc", manifold.CROWD + 1))
def prdc(bench: Bench) -> Iterator[Record]:
    """Precision and recall with balls of 3 neighbors, density and coverage with 5; each beside its floor: training images
    in place of samples. Precision and density may be above it where samples lie in the middle of what is real."""
    for it in bench.compared:
        drawn = manifold.shares(it.real_manifold, manifold.manifold(it.drawn))._asdict()
        floor = manifold.shares(it.real_manifold, manifold.manifold(it.floor))._asdict()
        for name, value in drawn.items():
            k = manifold.BALL if name in ("precision", "recall") else manifold.CROWD
            more = {"floor": floor[name], "neighbors": k, **it.facts()}
            yield bench.record(f"{name}[{it.extractor.name}]", value, **more)


@refusing(pictures("memorization", 2))
def memorization(bench: Bench) -> Iterator[Record]:
    """Share of samples much nearer to one training image than to the second (Yoon et al. 2023), and how often a sample is
    nearer to the training images than a held-out one is (Meehan et al. 2020): 1/2 where nothing is copied.

    In all training images, and in pixels where no extractor was named: copies are a matter of pixels. The floor has
    floor_n held-out images in place of samples, as many or all there are: a mean over single images, which n does not
    bias, with floor_error its standard error. null_error of copying is the spread of its value where nothing is copied.
    """
    named = bench.options.extractor.strip() != "auto"
    for it in bench.compared if named else [one for one in bench.compared if one.extractor.name == "pixels"]:
        held_out = it.real[: len(it.drawn)]
        found, fair = (
            nearest(query, (features(it.extractor, x) for x in bench.pictures(bench.train))).distance
            for query in (it.drawn, held_out)
        )
        name, n = it.extractor.name, len(it.drawn)
        (value, error), (floor, floor_error) = (share(memorized(distance)) for distance in (found, fair))
        about = {
            "split": bench.train.split,
            "n": n,
            **{key: it.facts()[key] for key in ("extractor", "extractor_sha256", "resizer")},
            "reference": len(bench.train),
            "floor_n": len(held_out),
            "floor_split": bench.test.split,
        }
        yield bench.record(
            f"memorization[{name}]", value, standard_error=error, floor=floor, floor_error=floor_error, **about
        )
        value, error = closer(found[:, 0], fair[:, 0])
        yield bench.record(f"copying[{name}]", value, null_error=error, floor=0.5, **about)
