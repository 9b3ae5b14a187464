"""The laws of a method's loss: finite, a mean over rows, a function of its addresses, with a gradient to every weight."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar
from unittest import SkipTest

import torch
from torch import Tensor

from diffcli.core.method import Batch, Method
from diffcli.core.random import Blocks, Rng, Rows
from diffcli.engine.job import Job
from diffcli.samplers.grid import grid
from diffcli.testing.network import awake, few, silent, without_dropout
from diffcli.testing.subject import BATCH, job, variants
from diffcli.testing.suite import Suite, addressed, drawn, need


class Losses(Suite):
    """The laws of a method's loss. options: tables of a recipe over the method's defaults, such as a smaller network."""

    kind: ClassVar[str] = "method"
    options: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @classmethod
    def make(cls) -> list[tuple[str, Job]]:
        """(flags, job) as the method is by default and, where it can learn classes, as it does."""
        return [(flags, job(recipe)) for flags, recipe in variants(cls.name, cls.options)]

    @property
    def job(self) -> Job:
        """By default."""
        found: Job = self.made[0][1]
        return found

    def batch(self, of: Job, index: Tensor) -> Batch:
        """The rows at these positions of the stream of training."""
        found: Batch = of.data.batch(of.data.items(0, index), index, of.assembly.space)
        return found

    def training(self, of: Job) -> Method:
        """A copy in training mode, its dropout layers switched off and no layer silent."""
        method: Any = awake(without_dropout(copy.deepcopy(of.method)))
        return method  # type: ignore[no-any-return]

    def loss(self, of: Job, method: Method, index: Tensor, total: int = BATCH) -> dict[str, Tensor]:
        """What a training step takes the gradient of."""
        return method.loss(self.batch(of, index), Blocks(0, index, total))

    def test_losses_are_numbers(self) -> None:
        """loss() gives a dict of finite 0-dim tensors, and its "loss" can be differentiated."""
        for flags, made in self.made:
            losses = self.loss(made, self.training(made), torch.arange(BATCH))
            need("loss" in losses, f"{flags} there is no entry named loss, only {', '.join(losses)}")
            for name, value in losses.items():
                need(
                    isinstance(value, Tensor) and value.shape == (),
                    f"{name}{flags} is {type(value).__name__} {tuple(getattr(value, 'shape', ()))}, not a 0-dim tensor",
                )
                need(torch.isfinite(value), f"{name}{flags} is {float(value.detach())}")
            need(losses["loss"].requires_grad, f"the loss{flags} has no gradient")

    def test_every_parameter_gets_a_gradient(self) -> None:
        """Every trainable parameter gets a gradient."""
        for flags, made in self.made:
            method = self.training(made)
            for k in range(4):
                self.loss(made, method, torch.arange(k * BATCH, (k + 1) * BATCH))["loss"].backward()
            without, total = silent(method.named_parameters()), sum(p.requires_grad for p in method.parameters())
            need(not without, f"{len(without)} of {total} have none{flags}: {few(without)}")

    def test_every_parameter_is_optimized(self) -> None:
        """parameter_groups() holds every trainable parameter once."""
        for flags, made in self.made:
            method = made.method
            held = [id(p) for group in method.parameter_groups() for p in group["params"]]
            names = {id(p): name for name, p in method.named_parameters() if p.requires_grad}
            missing = [name for key, name in names.items() if key not in held]
            need(not missing, f"{len(missing)} of {len(names)} are in no group{flags}: {few(missing)}")
            need(len(held) == len(set(held)), f"{len(held) - len(set(held))} are in more than one place{flags}")

    def test_no_global_random_numbers(self) -> None:
        """The loss draws from rng alone, never from a global stream; layers of nn.Dropout are the one exception."""
        for flags, made in self.made:
            method = self.training(made)
            _, moved = drawn(partial(self.loss, made, method, torch.arange(BATCH)))
            need(not moved, f"in training{flags} it draws from the global stream of {', '.join(moved)}; draw from rng")
            rows = torch.arange(BATCH)
            _, moved = drawn(partial(self.held_out, made, method.eval(), rows))
            need(
                not moved, f"in evaluation{flags} it draws from the global stream of {', '.join(moved)}; draw from rng"
            )

    def test_the_loss_is_a_mean_over_rows(self) -> None:
        """The losses of the halves of a batch average to that of the whole, each row with its own random numbers."""
        for flags, made in self.made:
            method, index = self.training(made), torch.arange(BATCH)
            whole, *halves = (
                addressed(partial(self.loss, made, copy.deepcopy(method), part))["loss"].item()
                for part in (index, *index.chunk(2))
            )
            self.mean(whole, halves, f"in training{flags}")

    def held_out(self, of: Job, method: Method, rows: Tensor, total: int = BATCH) -> float:
        """The loss of some held-out rows, as the engine evaluates it."""
        rng: Rng = Rows(0, rows, total)
        with torch.no_grad():
            return method.loss(of.held_out.batch(rows, rows, of.assembly.space), rng)["loss"].item()

    def test_evaluation_is_a_function(self) -> None:
        """In evaluation the loss is the same twice, and that of halves averages to the whole."""
        for flags, made in self.made:
            method: Any = awake(copy.deepcopy(made.method)).eval()
            rows = torch.arange(min(BATCH, len(made.held_out) // 2 * 2))
            total = len(rows)
            first = addressed(partial(self.held_out, made, method, rows, total))
            again = self.held_out(made, method, rows, total)
            need(first == again, f"of the same rows{flags} it is {first:.8g}, and then {again:.8g}")
            halves = [self.held_out(made, copy.deepcopy(method), part, total) for part in rows.chunk(2)]
            self.mean(first, halves, f"in evaluation{flags}")

    def fixed(self, of: Job, method: Method) -> float:
        """The loss of the first held-out rows; a law about it does not apply where it is no function of them."""
        rows = torch.arange(min(BATCH, len(of.held_out)))
        first = addressed(partial(self.held_out, of, method.eval(), rows, len(rows)))
        if first != self.held_out(of, method, rows, len(rows)):
            raise SkipTest("it is not the same twice, as another law says")
        return first

    def mean(self, whole: float, halves: list[float], where: str) -> None:
        """Refuse halves that do not average to the whole."""
        average = sum(halves) / 2
        ratio = average / whole if whole else 0.0
        hint = "; it is a sum: divide by the rows" if abs(ratio - 0.5) < 0.01 else ""
        need(
            abs(average - whole) <= 1e-4 * max(abs(whole), 1e-3),
            f"{where} the whole is {whole:.6g}, and the halves average to {average:.6g}{hint}",
        )

    def test_the_condition_is_accepted(self) -> None:
        """cond() gives rows of tensors in training and in sampling, and the denoiser takes them."""
        for flags, made in self.made:
            batch = self.batch(made, torch.arange(BATCH))
            for training in (True, False):
                method = self.training(made).train(training)
                cond = method.cond(batch, Rows(0, batch.index, BATCH))
                odd = [name for name, value in cond.items() if not isinstance(value, Tensor) or len(value) != BATCH]
                need(not odd, f"cond(){flags} gave {few(odd)} without a row for each of {BATCH}")
                if method.denoiser is not None:
                    rng = Rows(0, batch.index, BATCH)
                    x = method.begin(tuple(made.assembly.space.shape), Batch(batch.index), rng)
                    with torch.no_grad():
                        answer = method.denoiser(x, torch.ones((), dtype=torch.float64), cond)
                    need(len(answer[0]) == BATCH, f"the denoiser{flags} answered {len(answer[0])} of {BATCH} rows")

    def test_the_weak_side_fits_the_strong(self) -> None:
        """weaken() keeps the names, shapes and types of a condition, and leaves it as it was."""
        for flags, made in self.made:
            batch = self.batch(made, torch.arange(BATCH))
            method = self.training(made).eval()
            cond = method.cond(batch, Rows(0, batch.index, BATCH))
            if not cond:
                continue
            kept = {name: value.clone() for name, value in cond.items()}
            weak = method.weaken(cond)
            need(weak.keys() == cond.keys(), f"{flags} of {', '.join(cond)} it makes {', '.join(weak)}")
            for name, value in cond.items():
                a, b = (f"{tuple(v.shape)} {v.dtype}" for v in (value, weak[name]))
                need(a == b, f"{name}{flags} is {a}, and its weak side {b}")
                need(torch.equal(value, kept[name]), f"{name}{flags} is another afterwards; make a new one")

    def test_it_begins_by_address(self) -> None:
        """begin() gives x at t = 1, each row by its own address, and times() a grid from 1 to 0."""
        for flags, made in self.made:
            method = made.method
            if method.denoiser is None:
                self.skip("the method has no denoiser")
            shape, index = tuple(made.assembly.space.shape), torch.arange(BATCH)
            whole, part = (method.begin(shape, Batch(i), Rows(0, i, BATCH)) for i in (index, index[5:6]))
            need(whole.shape == (BATCH, *shape), f"begin(){flags} gave {tuple(whole.shape)}, not {(BATCH, *shape)}")
            need(torch.equal(whole[5:6], part), f"begin(){flags}: row 5 is another alone than in a batch")
            spacing: Any = made.recipe.sample.spacing
            times = method.times(4, spacing, grid)
            falls = (
                len(times) == 5 and bool((times.diff() < 0).all()) and float(times[0]) <= 1 and float(times[-1]) == 0
            )
            need(falls, f"times(){flags} of 4 steps are {', '.join(f'{t:.4g}' for t in times.tolist())}")
