"""The seven models of MNIST, trained, sampled and evaluated by their recipes, in one table.

    python benchmarks/zoo.py mnist-cpu --output benchmarks/results/zoo-mnist-cpu.json

takes a finished run of each recipe below runs/ where there is one, and trains it where there is none; the autoencoder comes
first, as the others live in its latents. `digits` and `mnist` name the small and the full recipes; --run rf=FOLDER takes a run
of the recipe that lies elsewhere or has another seed. Each model is drawn as its recipe says, ddpm also by
ddim where its recipe says another sampler.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from diffcli import recipe as recipes
from diffcli.engine.environment import environment
from diffcli.engine.evaluate import measured as take
from diffcli.engine.evaluate import opened
from diffcli.engine.finished import finished, same
from diffcli.engine.rundir import find
from diffcli.engine.train import train

MODELS = ("vae", "ddpm", "ldm", "ldm-concat", "ldm-cross", "rf", "rf-latent")
BESIDE: dict[str, dict[str, Any]] = {"ddpm": {"sampler": {"name": "ddim", "eta": 0.0}, "sample": {"steps": 50}}}
HEADS = ("model", "seed", "sampler", "NFE", "trained s", "drawn s", "fd[lenet]", "floor", "accuracy", "psnr")


def run_of(recipe: recipes.Recipe, given: str | None, console: Console) -> Path:
    """The run that is given, once it is known to be one of the recipe; else a finished one, or a new one."""
    if given is not None:
        same(recipe, find(given))
        return Path(given)
    found = next(finished(recipe), None)
    return found.path if found else train(recipe, console=console)


def measured(name: str, run: Path, recipe: recipes.Recipe, samples: int, console: Console) -> dict[str, Any]:
    """A row of the table: what the recipe's way of drawing costs and gives."""
    conditional = getattr(recipe.method.config, "cond", "none") == "label"
    reconstructs = "sampler" not in recipe.parts
    metric = "fd,psnr" if reconstructs else "fd,accuracy" if conditional else "fd"
    asked = {"metric": metric, "extractor": "lenet", "samples": samples}
    drawn = {"per_class": samples // 10} if conditional else {}
    found, bench = opened(run, recipe, recipe.evaluation({**asked, **drawn}))
    records = take(found, bench, console)
    seconds = bench.samples.seconds
    part = recipe.parts.get("sampler")
    summary = json.loads((run / "summary.json").read_text())
    return {
        "model": name,
        "run": str(run),
        "seed": int(recipes.read(run / "recipe.toml")["train"]["seed"]),
        "sampler": part.name if part else None,
        "trained_s": summary["seconds"],
        "drawn_s": round(sum(seconds) / len(seconds) * len(bench.samples.x), 2),
        "records": records,
    }


def row(found: dict[str, Any]) -> list[str]:
    """A line of the table."""
    by = {record["metric"]: record for record in found["records"]}
    fd = by.get("fd[lenet]", {})
    cells = [
        found["model"], str(found["seed"]), found["sampler"] or "-", f"{fd.get('nfe', 0):g}", f"{found['trained_s']:.0f}",
        f"{found['drawn_s']:.1f}", shown(fd.get("value")), shown(fd.get("floor")),
        shown(by.get("accuracy[lenet]", {}).get("value")), shown(by.get("psnr", {}).get("value")),
    ]  # fmt: skip
    return cells


def shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scale", help="what the recipes end in: digits, mnist-cpu or mnist")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--run", nargs="+", default=[], metavar="MODEL=FOLDER")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    console, rows = Console(stderr=True), list[dict[str, Any]]()
    known = dict(text.split("=", 1) for text in given.run)
    for model in given.models:
        name = f"{model}-{given.scale}"
        tables = recipes.read(recipes.named(name))
        recipe = recipes.resolve(tables)
        run = run_of(recipe, known.get(model), console)
        rows.append(measured(model, run, recipe, given.samples, console))
        if model in BESIDE and recipe.parts["sampler"].name != "ddim":
            other = recipes.resolve(recipes.overlay(tables, BESIDE[model]))
            rows.append(measured(f"{model} by ddim", run, other, given.samples, console))
    lines = [HEADS, ["---"] * len(HEADS), *map(row, rows)]
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))
    if given.output:
        about = {"scale": given.scale, "samples": given.samples, **environment(torch.device("cpu"))}
        given.output.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
