"""The laws of a method, from its loss and its training to what can be drawn of it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from diffcli.core.random import Rows
from diffcli.engine import preview
from diffcli.engine.evaluate import Bench
from diffcli.engine.job import Job
from diffcli.engine.load import Model
from diffcli.engine.plots import draw_plots
from diffcli.engine.sample import Samples, sample
from diffcli.errors import UsageError, show
from diffcli.options import structure
from diffcli.parts import Part, fitting
from diffcli.plugin import load
from diffcli.recipe import Recipe, overlay, resolve
from diffcli.registry import registry
from diffcli.sections import EvalOptions, SampleOptions
from diffcli.testing.network import awake
from diffcli.testing.subject import weakened
from diffcli.testing.suite import apart, need
from diffcli.testing.training import Training

DRAWN, WALK = 3, 4  # samples, and steps of each
CHEAP = {"samples": 4, "images": 8, "reference": 16, "steps": WALK, "device": "cpu", "precision": "fp32"}


class MethodSuite(Training):
    """The laws of a method; `options` are tables of a recipe over its defaults, such as {"model": {"channels": 8}}."""

    def model(self, made: Job) -> Model:
        """As sampling sees it, with weights away from their start."""
        method: Any = awake(copy.deepcopy(made.method)).eval().requires_grad_(False)
        a = made.assembly
        return Model(a.recipe, method, a.space, a.facts, made.device, "the method under test", 0, "raw", "")

    def draw(self, model: Model, sampler: str | None, **options: Any) -> Samples:
        """A few short walks with a sampler's own defaults, or with the recipe's sampler."""
        part = model.recipe.parts.get("sampler")
        steps = WALK if part else None  # a method that takes no sampler walks no steps
        o: SampleOptions = replace(
            model.recipe.sample, **{"samples": DRAWN, "steps": steps, "spacing": None, **options}
        )
        if sampler is not None and (part is None or part.name != sampler):
            part = Part(sampler, structure(registry().get("sampler", sampler).config, {}, "[sampler]"))
        return sample(model, o, part)

    def samplers(self, made: Job) -> Iterator[str | None]:
        """Those that fit, its own first; None where it takes none."""
        own = made.recipe.parts.get("sampler")
        yield own.name if own else None
        if own:
            yield from (name for name in fitting(made.recipe.spec, "sampler") if name != own.name)

    def test_every_sampler_that_fits_draws(self) -> None:
        """Samples of every sampler that fits are finite and of the shape of the data; its own is not refused."""
        for flags, made in self.made:
            model = self.model(made)
            for k, sampler in enumerate(self.samplers(made)):
                try:
                    drawn = self.draw(model, sampler)
                except UsageError as error:  # a method with levels of its own may refuse the others
                    need(k > 0, f"its own sampler {sampler} is refused{flags}: {show(error)}")
                    continue
                where, shape = f"with {sampler}{flags}", (DRAWN, *made.assembly.facts.shape)
                need(tuple(drawn.x.shape) == shape, f"{where} samples are {tuple(drawn.x.shape)}, not {shape}")
                need(torch.isfinite(drawn.x.double()).all(), f"{where} samples are not finite")
                vocab = getattr(model.space, "vocab", None)
                if vocab is not None:
                    left = int((drawn.x_0 >= vocab).sum())
                    need(not left, f"{where} {left} tokens of {DRAWN} samples are [MASK]")

    def test_a_sample_is_the_same_in_any_batch(self) -> None:
        """Sample i follows from (seed, i) alone, whatever the batch it is drawn in."""
        for flags, made in self.made:
            model = self.model(made)
            whole, alone = (self.draw(model, None, batch_size=size) for size in (DRAWN, 1))
            need(torch.equal(whole.start, alone.start), f"x at t = 1{flags} is another alone than in a batch")
            off = apart(whole.x, alone.x)
            need(off < 1e-3, f"samples{flags} are {off:.2g} of the largest number apart")

    def test_guidance_draws(self) -> None:
        """With a condition, guided samples, of a class where classes are known, are finite."""
        rows = torch.arange(2)
        guidable = [
            (flags, made)
            for flags, made in self.made
            if made.method.guidable
            and weakened(made.method.eval(), made.method.cond(self.batch(made, rows), Rows(0, rows, 2)), 2)
        ]
        if not guidable:
            self.skip("it has no weak side that fits")
        for flags, made in guidable:
            label = "0" if getattr(made.method, "conditional", False) else None
            drawn = self.draw(self.model(made), None, guidance_scale=2.0, label=label)
            need(torch.isfinite(drawn.x.double()).all(), f"guided samples{flags} are not finite")

    def test_its_preview_can_be_drawn(self) -> None:
        """The previews that preview() asks for can be drawn."""
        made = self.job
        drawn = preview.draw(self.model(made))
        shape = (len(drawn.x), *made.assembly.facts.shape)
        need(tuple(drawn.x.shape) == shape, f"they are {tuple(drawn.x.shape)}, not {shape}")

    def bench(self) -> Bench:
        """A few samples and a few held-out rows, to measure."""
        made = self.job
        cheap = CHEAP if "sampler" in made.recipe.parts else {k: v for k, v in CHEAP.items() if k != "steps"}
        o = structure(made.recipe.spec.eval or EvalOptions, cheap, "[eval]")
        return Bench(self.model(made), made.recipe, o, test=made.held_out)

    def test_its_plots_are_pictures(self) -> None:
        """Each of its own plots draws a picture."""
        if not self.spec().plots:
            self.skip("it has no plots")
        with TemporaryDirectory() as folder:
            for name in self.spec().plots:
                try:
                    files = draw_plots(self.bench(), [name], Path(folder))
                except UsageError:  # of data or options that are not the default ones
                    continue
                need(len(files) > 0 and all(path.stat().st_size for path in files), f"{name} left no file")

    @torch.no_grad()
    def test_its_measures_give_records(self) -> None:
        """Each of its own measures gives records with a metric and a finite value."""
        if not self.spec().metrics:
            self.skip("it has no measures")
        for name, target in self.spec().metrics.items():
            try:
                records = list(load(target)(self.bench()))
            except UsageError:
                continue
            need(bool(records), f"{name} gave no record")
            for record in records:
                value = record.get("value") if isinstance(record, dict) else None
                finite = isinstance(value, int | float) and abs(value) < float("inf")
                need(finite and isinstance(record.get("metric"), str), f"{name} gave {show(repr(record), 120)}")

    def test_a_recipe_of_a_run_is_its_own(self) -> None:
        """The recipe that a run keeps makes the same run again."""
        for flags, made in self.made:
            tables = made.recipe.tables()
            again: Recipe = resolve(overlay(tables, {}))
            need(again.tables() == tables, f"{flags} it makes another recipe: {show(again.tables(), 200)}")
