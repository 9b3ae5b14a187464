"""A linear probe: how much of the classes can be read off frozen features by a linear classifier (Alain and Bengio 2016).

Published as epochs of stochastic gradient descent on a linear layer; here the minimum that these go towards is computed
itself: multinomial logistic regression on standardized features, which is convex, so neither a learning rate nor an order
of the images decides the number.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from diffcli.core.random import permutation

RIDGES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # from strong to weak: each start is the end of the one before
CHOOSING = 10  # one in so many training images chooses among them


class Probe(NamedTuple):
    """A linear classifier of features (n, D): weight (D, K) and bias (K,) after (x - mean)/std; all float64."""

    weight: Tensor
    bias: Tensor
    mean: Tensor
    std: Tensor
    ridge: float

    def classify(self, x: Tensor) -> Tensor:
        """(n, D) features -> (n,) the most probable class of each."""
        answers = ((x.double() - self.mean) / self.std) @ self.weight + self.bias
        return answers.argmax(1)


def logistic(
    x: Tensor, label: Tensor, classes: int, ridge: float, passes: int, start: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """(W (D, K), b (K,)): least mean cross-entropy of softmax(x W + b) plus ridge/2 |W|^2, by L-BFGS on all rows at once.

    x: (n, D) float64; label: (n,) in 0 ... classes - 1; passes: most evaluations over the rows; start: (W, b), else 0.
    """
    zeros = (x.new_zeros(x.shape[1], classes), x.new_zeros(classes))
    weight, bias = (p.clone().requires_grad_() for p in start or zeros)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=passes, max_eval=passes, tolerance_grad=1e-7, tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(x @ weight + bias, label) + ridge / 2 * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()


def probe(x: Tensor, label: Tensor, classes: int, *, passes: int = 100, seed: int = 0) -> Probe:
    """The classifier of features x (n, D) with labels (n,), n >= 2.

    Of RIDGES the one under which most of every tenth image, held back by (seed), are told right, the strongest of equals;
    then with it on all images. A feature that never changes is left out.
    """
    mean, std = x.double().mean(0), x.double().std(0)
    std = torch.where(std > 1e-6 * (1 + mean.abs()), std, torch.inf)
    z = (x.double() - mean) / std
    order = permutation(seed, "probe", 0, len(z)).to(z.device)
    chooses, fits = order[: max(1, len(z) // CHOOSING)], order[max(1, len(z) // CHOOSING) :]
    best, found, start = -1, None, None
    for ridge in RIDGES:
        start = logistic(z[fits], label[fits], classes, ridge, passes, start)
        hits = int(((z[chooses] @ start[0] + start[1]).argmax(1) == label[chooses]).sum())
        if hits > best:
            best, found = hits, (ridge, start)
    assert found is not None
    weight, bias = logistic(z, label, classes, found[0], passes, found[1])
    return Probe(weight, bias, mean, std, found[0])
