"""A claim held to: a run of its recipe is measured as [eval] says, and stands beside what [claim] says."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from diffcli.engine.evaluate import evaluate
from diffcli.engine.files import dump_json, durable
from diffcli.engine.finished import same
from diffcli.engine.measures import gives, refuse_unknown
from diffcli.engine.rundir import find
from diffcli.engine.train import train
from diffcli.errors import UsageError, show
from diffcli.metrics.neighbors import VOTERS
from diffcli.recipe import Recipe
from diffcli.registry import registry
from diffcli.sections import Claim, EvalOptions

IN_FEATURES = ("fd", "kd", "prdc", "accuracy", "memorization")  # measures whose records name an extractor


@dataclass(frozen=True)
class Verdict:
    """What was claimed, what was measured, and what that took. trained, measuring: seconds."""

    run: Path
    claim: Claim
    record: dict[str, Any]
    seed: int
    trained: float
    measuring: float

    @property
    def off(self) -> float:
        """Measured less claimed."""
        return float(self.record["value"]) - self.claim.value

    @property
    def holds(self) -> bool:
        """Within the tolerance, both ends included; what rounding of the claim's decimals adds is forgiven."""
        return abs(self.off) <= self.claim.tolerance + 1e-9

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "run": str(self.run),
            "metric": self.claim.metric,
            "claimed": self.claim.value,
            "tolerance": self.claim.tolerance,
            "measured": self.record["value"],
            "holds": self.holds,
            "training_seed": self.seed,
            "trained_s": self.trained,
            "measuring_s": self.measuring,
            "record": self.record,
        }


def repro(
    recipe: Recipe,
    run: str | None = None,
    *,
    output: Path | None = None,
    device: str = "auto",
    console: Console | None = None,
) -> Verdict:
    """Train the recipe, or take a run of it, and measure what it claims; the verdict is kept as repro.json in the run.

    Raises UsageError where the recipe claims nothing, RunError where the run is none of this recipe or is not finished.
    """
    claim = claimed(recipe)
    name, options = way(recipe, claim, device)
    if run is None:
        run = str(train(recipe, output, console=console))
    found = find(run)
    trained = same(recipe, found)
    begin = time.perf_counter()
    records = evaluate(found.path, recipe, options, console)
    matching = [record for record in records if record["metric"] == claim.metric]
    if not matching:
        raise UsageError(
            f"the recipe claims {show(claim.metric, 80)}, but --metric {show(name, 80)} measures "
            f"{', '.join(record['metric'] for record in records) or 'nothing here'}; mend [claim] metric or [eval] metric"
        )
    seed = int((found.tables or {}).get("train", {}).get("seed", 0))
    verdict = Verdict(found.path, claim, matching[0], seed, trained, time.perf_counter() - begin)
    durable(found.run / "repro.json", dump_json(verdict.plain()))
    return verdict


def claimed(recipe: Recipe) -> Claim:
    """The claim of a recipe. Raises UsageError where there is none."""
    if recipe.claim is None:
        raise UsageError(
            f"this recipe of {recipe.method.name} claims no number; see diffcli recipes list for those that do"
        )
    return recipe.claim


def way(recipe: Recipe, claim: Claim, device: str) -> tuple[str, EvalOptions]:
    """(the measures, how they are taken) of a claim. UsageError, before any training, where it could not give the number."""
    name = recipe.eval.get("metric", gives(claim.metric))
    refuse_unknown(recipe.spec, [one.strip() for one in name.split(",")])
    options, inside = recipe.evaluation({"metric": name, "device": device}), claim.metric.partition("[")[2].rstrip("]")
    if claim.metric.startswith("agreement[") and inside != f"{options.neighbors or VOTERS}nn":
        raise UsageError(
            f"the recipe claims {show(claim.metric, 80)}, but {options.neighbors or VOTERS} neighbors vote; set [eval] neighbors"
        )
    if inside and gives(claim.metric) in IN_FEATURES:
        registry().get("extractor", inside)
    return name, options
