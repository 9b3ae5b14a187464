"""What a measure cannot be taken of is refused before any measure has cost time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import TYPE_CHECKING, Any

from diffcli.engine.records import Record
from diffcli.engine.sample import unconditioned, wishes
from diffcli.errors import UsageError

if TYPE_CHECKING:
    from diffcli.engine.evaluate import Bench

Measure = Callable[["Bench"], Iterator[Record]]
Refusal = Callable[["Bench"], None]


def refusing(check: Refusal) -> Callable[[Measure], Any]:
    """The measure with `refuse`, which `eval` calls before any work: UsageError where it has no meaning, or too few images.

    @refusing(check) on a method's own measure does the same for it.
    """

    def mark(take: Measure) -> Any:
        @wraps(take)
        def measure(bench: Bench) -> Iterator[Record]:
            check(bench)
            yield from take(bench)

        measure.refuse = check  # type: ignore[attr-defined]
        return measure

    return mark


def refuse(measure: Any, bench: Bench) -> None:
    """What a measure refuses, if it refuses anything."""
    getattr(measure, "refuse", lambda bench: None)(bench)


def pictures(name: str, least: int) -> Refusal:
    """UsageError where samples are no pictures, or they or held-out images are too few, or no extractor sees them."""

    def check(bench: Bench) -> None:
        if bench.model.facts.alphabet:
            raise UsageError(f"{name} is of pictures, but {bench.model.where} is of text; leave it out of --metric")
        if (n := wishes(bench.model, bench.options)[0]) < least:
            raise UsageError(f"{name} needs {least} samples or more, but there are {n}; raise --samples or --per-class")
        whose = "" if bench.classes is None else " of the classes that --label asks for"
        for what in ("held-out", "training") if bench.classes else ("held-out",):
            n = len(bench.order(bench.test if what == "held-out" else bench.train, least, bench.classes))
            if n < least:
                raise UsageError(
                    f"{name} needs {least} {what} images{whose} or more, but there are {n}; leave it out of --metric"
                )
        if not bench.extractors:
            raise UsageError(f"{name} needs an extractor, and none that is installed fits these data")

    return check


def settled(bench: Bench, name: str, keys: Iterable[str]) -> None:
    """UsageError where options are given that a plot has of its own: they would change nothing, and stand in its command.

    What the recipe of the run says of them is not given.
    """
    unsaid = bench.recipe.evaluation({})
    for key in keys:
        if getattr(bench.options, key) != getattr(unsaid, key):
            raise UsageError(f"--plot {name} has its own --{key.replace('_', '-')}; leave it out")


def conditional(bench: Bench, name: str) -> None:
    """UsageError where the model knows no classes, or none is asked for."""
    if not getattr(bench.model.method, "conditional", False):
        raise UsageError(f"{name} needs classes, but {bench.model.where} was trained without; train with --cond label")
    if unconditioned(bench.model, bench.options):
        raise UsageError(f"{name} needs classes, but --label none asks for samples without; leave one of them out")


def of_bytes(bench: Bench, name: str) -> None:
    """UsageError where bits a dimension have no meaning: in latents, of other than bytes; or their error none."""
    if bench.recipe.train.autoencoder is not None:
        raise UsageError(f"{name} is measured in pixels; a latent model has none")
    if (levels := getattr(bench.test, "levels", 255)) != 255:
        raise UsageError(
            f"{name} is of 8-bit images, but {bench.model.facts.name} has {levels + 1} levels; measure another data set"
        )
    if min(bench.options.images, len(bench.test)) < 2:
        raise UsageError(f"{name} needs 2 images or more for a standard error; raise --images")
