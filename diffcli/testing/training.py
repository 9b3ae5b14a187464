"""The laws of training a method: the loss falls, a checkpoint is the model, and a resume is as if it had never stopped."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from diffcli import recipe as recipes
from diffcli.engine.job import Job
from diffcli.engine.load import load
from diffcli.engine.resume import restore, save
from diffcli.engine.rundir import RunDir
from diffcli.engine.step import losses_of, step_once
from diffcli.testing.losses import Losses
from diffcli.testing.network import few
from diffcli.testing.subject import BATCH, job
from diffcli.testing.suite import need

STEPS, HALF = 4, 2  # of a training that is stopped half-way
FALL = 50  # steps in which the loss must fall
LEAST = 0.01  # of the loss, that it must fall by


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    """The names of tensors that are not equal to the bit."""
    return [name for name in a.keys() | b.keys() if name not in a or name not in b or not torch.equal(a[name], b[name])]


def run_of(made: Job, folder: Path) -> RunDir:
    """A run for a job."""
    run = RunDir.create(folder / "run", made.recipe.method.name)
    run.write_recipe(recipes.dumps(made.recipe))
    return run


class Training(Losses):
    """The laws of training."""

    def test_the_loss_falls(self) -> None:
        """The loss falls in 50 steps on one batch."""
        made, index = job(self.job.recipe), torch.arange(BATCH)
        found = []
        for _ in range(FALL):
            made.optimizer.zero_grad()
            loss = losses_of(made, index)["loss"]  # the same rows with the same random numbers
            loss.backward()
            made.optimizer.step()
            found.append(float(loss.detach()))
        first, last = found[0], sum(found[-5:]) / 5
        need(
            first - last > LEAST * abs(first),
            f"it goes from {first:.5g} to {last:.5g} at learning rate {made.recipe.train.lr:g}",
        )

    def test_a_checkpoint_is_the_model(self) -> None:
        """What is saved and loaded again is the model to the bit, and its loss is the same."""
        for flags, start in self.made:
            made = job(start.recipe)
            for step in range(HALF):
                step_once(made, step, STEPS, 0)
            with TemporaryDirectory() as folder:
                run = run_of(made, Path(folder))
                save(made, run, HALF, 0.0, [])
                averaged: Any = made.ema.model
                for raw, method in ((True, made.method), (False, averaged)):
                    read = load(run.path, raw=raw, device="cpu").method
                    other = differing(read.state_dict(), method.state_dict())
                    need(not other, f"{len(other)} tensors are others{flags}: {few(other)}")
                    a, b = self.fixed(made, method), self.fixed(made, read)
                    need(
                        a == b,
                        f"the loss{flags} was {a:.8g} and is {b:.8g}; keep all that it follows from in parameters and buffers",
                    )

    def test_a_resume_changes_nothing(self) -> None:
        """Two steps, a checkpoint and two more are four steps, to the bit."""
        whole = job(self.job.recipe)
        with TemporaryDirectory() as folder:
            run = run_of(whole, Path(folder))
            for step in range(HALF):
                step_once(whole, step, STEPS, 0)
            save(whole, run, HALF, 0.0, [])
            after = [step_once(whole, step, STEPS, 0) for step in range(HALF, STEPS)]
            again = job(self.job.recipe)
            step, _, _ = restore(again, run, lambda line: None)
            need(step == HALF, f"it goes on from step {step}, not {HALF}")
            resumed = [step_once(again, step, STEPS, 0) for step in range(HALF, STEPS)]
        for k, (a, b) in enumerate(zip(after, resumed, strict=True)):
            other = [f"{name} {a[name]:.8g} and {b.get(name, 0.0):.8g}" for name in a if a[name] != b.get(name)]
            need(
                not other,
                f"at step {HALF + k + 1} without and with a stop: {few(other)}; keep no state but parameters and buffers",
            )
        for what, x, y in (
            ("weights", whole.method, again.method),
            ("averaged weights", whole.ema.model, again.ema.model),
        ):
            other = differing(x.state_dict(), y.state_dict())
            need(not other, f"{len(other)} {what} are others: {few(other)}")
