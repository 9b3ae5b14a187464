"""The measures that fit any method; a method brings its own in Spec.metrics. Each takes a Bench and gives records."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from diffcli.core.random import Rows
from diffcli.engine.compared import REFERENCE, VOTING, classes
from diffcli.engine.distances import fd, kd, memorization, prdc, share
from diffcli.engine.probing import probe, tuning
from diffcli.engine.reconstructions import psnr, ssim
from diffcli.engine.records import Record
from diffcli.engine.refusals import Measure, conditional, of_bytes, pictures, refusing
from diffcli.errors import UsageError, show
from diffcli.metrics.likelihood import bits_per_dim
from diffcli.metrics.manifold import Shares
from diffcli.metrics.neighbors import VOTERS, vote
from diffcli.plugin import load

if TYPE_CHECKING:
    from diffcli.engine.evaluate import Bench
    from diffcli.engine.load import Model
    from diffcli.metrics.features import Extractor
    from diffcli.plugin import Spec

NLL_IMAGES = 256  # most images that nll integrates: 200 evaluations and 100 gradients each
TRUSTED = 0.9  # share of held-out images that a judge must get right to be believed on samples


def objective(model: Model) -> str:
    """What a method's loss is the loss of: losses of two objectives are two functions."""
    recipe, encoder = model.recipe, model.encoder
    parts = [recipe.method.name, *(getattr(recipe.method.config, key, "") for key in ("prediction", "objective"))]
    parts += [recipe.parts[kind].name for kind in ("schedule",) if kind in recipe.parts]
    return ", ".join(filter(None, [*parts, f"in latents of {encoder.sha256[:12]}" if encoder else ""]))


def loss(bench: Bench) -> Iterator[Record]:
    """The method's own loss on held-out images, each at its own fixed noise and stratified time."""
    n = min(bench.options.images, len(bench.test))
    about = {"split": bench.test.split, "images": n, "objective": objective(bench.model)}
    yield bench.record("loss", bench.loss(n), **about)


def refuse_accuracy(bench: Bench) -> None:
    """UsageError where no class was asked for, or none of the extractors is a judge."""
    pictures("accuracy", 2)(bench)
    conditional(bench, "accuracy")
    if not judges(bench):
        raise UsageError(
            f"accuracy needs a judge of {bench.model.facts.name}, but {', '.join(one.name for one in bench.extractors)} has none; "
            "measure agreement, which needs none"
        )


def judges(bench: Bench) -> list[Extractor]:
    """The extractors that tell the classes of these data."""
    return [extractor for extractor in bench.extractors if extractor.classes == bench.model.facts.classes > 0]


@refusing(refuse_accuracy)
def accuracy(bench: Bench) -> Iterator[Record]:
    """Share of conditional samples that a judge gives the class that was asked for; `real` is its share of held-out images.

    A judge that is right on fewer than 9 in 10 held-out images, as the method sees them, is not believed: no record.
    """
    for extractor in judges(bench):
        test, test_label = bench.real(bench.test, REFERENCE)
        real, _ = share(classes(extractor, test) == test_label)
        if real < TRUSTED:
            bench.note(
                f"no accuracy[{extractor.name}] is claimed: {extractor.name} is right on {100 * real:.1f} % of {len(test)} "
                f"held-out images ({bench.test.split}), below {100 * TRUSTED:.0f} %"
            )
            continue
        hits = classes(extractor, bench.samples.x.clamp(-1, 1)) == bench.samples.label
        value, error = share(hits)
        about = {
            "extractor": extractor.name,
            "extractor_sha256": extractor.sha256,
            "resizer": extractor.resizer,
            "real_n": len(test),
        }
        name = f"accuracy[{extractor.name}]"
        split = bench.test.split
        yield bench.record(name, value, standard_error=error, real=real, n=len(hits), split=split, **about)


def refuse_agreement(bench: Bench) -> None:
    """UsageError where no class was asked for, or too few real images vote."""
    pictures("agreement", 2)(bench)
    conditional(bench, "agreement")
    there, k = min(bench.options.reference or VOTING, len(bench.train)), bench.options.neighbors or VOTERS
    if there < k:
        raise UsageError(f"--neighbors {k} needs as many real images, but there are {there}; raise --reference")


@refusing(refuse_agreement)
def agreement(bench: Bench) -> Iterator[Record]:
    """Share of conditional samples that the nearest real training images give the class that was asked for."""
    label, k = bench.samples.label, bench.options.neighbors or VOTERS
    real, real_label = bench.real(bench.train, bench.options.reference or VOTING)
    test, test_label = bench.real(bench.test, REFERENCE)
    judged = vote(bench.samples.x.clamp(-1, 1).flatten(1), real.flatten(1), real_label, k)
    value, error = share(judged == label)
    yield bench.record(
        f"agreement[{k}nn]",
        value,
        standard_error=error,
        n=len(judged),
        reference=len(real),
        split=bench.train.split,
        real=share(vote(test.flatten(1), real.flatten(1), real_label, k) == test_label)[0],
        real_n=len(test),
        neighbors=k,
    )


def refuse_nll(bench: Bench) -> None:
    """UsageError where the likelihood by the probability-flow ODE has no meaning."""
    if bench.model.recipe.spec.family != "gaussian":
        raise UsageError("nll by the probability-flow ODE is of gaussian methods; this one has none")
    method, name = bench.model.method, bench.model.recipe.method.name
    if method.reconstructs or method.spacing is not None:
        raise UsageError(
            f"nll is of images that nothing is known of, but {name} is told the image itself; leave it out"
        )
    of_bytes(bench, "nll")


@refusing(refuse_nll)
def nll(bench: Bench) -> Iterator[Record]:
    """Bits per dimension of held-out images by the probability-flow ODE, with the standard error over images."""
    n = min(bench.options.images, len(bench.test), NLL_IMAGES)
    bits = []
    for items in torch.arange(n, device=bench.model.device).split(bench.model.space.rows):
        rng, batch = Rows(bench.options.seed, items, n), bench.test.batch(items, items, bench.model.space)
        method = bench.model.method
        bits.append(bits_per_dim(method.denoiser, batch.x, method.cond(batch, rng), rng).cpu())
    value = torch.cat(bits)
    error = float(value.std() / math.sqrt(n))
    about = {"unit": "bits/dim", "images": n, "split": bench.test.split}
    yield bench.record("nll", float(value.mean()), standard_error=error, **about)


# The names are those of diffcli.metrics.MEASURES.
MEASURES: dict[str, Measure] = {
    "loss": loss,
    "fd": fd,
    "kd": kd,
    "prdc": prdc,
    "accuracy": accuracy,
    "agreement": agreement,
    "memorization": memorization,
    "nll": nll,
    "psnr": psnr,
    "ssim": ssim,
    "probe": probe,
    "finetune": tuning,
}


# Records that are not called after the measure that gives them.
GIVEN = {**dict.fromkeys(Shares._fields, "prdc"), "copying": "memorization"}


def gives(metric: str) -> str:
    """The measure that gives records of this name: prdc of precision[lenet], memorization of copying, nelbo of nelbo[bits/char].

    Of a method's own measure it is the part before the bracket.
    """
    name = metric.partition("[")[0].strip()
    return GIVEN.get(name, name)


def refuse_unknown(spec: Spec, names: Sequence[str]) -> None:
    """UsageError where --metric names what no measure of the method is called; auto alone names all that apply."""
    if list(names) == ["auto"]:
        return
    known = [*MEASURES, *spec.metrics]
    there = f"there are {', '.join(known)}"
    for name in names:
        if name in known:
            continue
        if not name:
            raise UsageError(f"--metric has an empty name; give names with commas between them: {there}")
        if name == "auto":
            raise UsageError(f"--metric auto stands alone; leave it out, or leave the others out: {there}")
        if gives(name) in known:
            raise UsageError(
                f"--metric {show(name, 80)} is unknown: {show(name, 80)} is given by {gives(name)}; {there}"
            )
        raise UsageError(f"--metric {show(name, 80)} is unknown; {there}")


def measure(name: str, spec: Spec) -> Measure:
    """A measure of any method, or of this one."""
    own: Measure = MEASURES[name] if name in MEASURES else load(spec.metrics[name])
    return own
