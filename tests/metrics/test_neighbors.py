"""The nearest neighbors: the textbook's classifier, and what it does where the textbook is silent."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffcli.metrics import neighbors
from diffcli.metrics.neighbors import vote
from diffcli_vision import DigitsOptions
from diffcli_vision.digits import digits


@pytest.fixture(scope="module")
def split() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(query, its labels, reference, its labels) of digits, in [-1, 1]."""
    test, train = (digits(DigitsOptions(), name) for name in ("test", "train"))
    return tuple(t for s in (test, train) for t in (s.images.flatten(1).float() / 8 - 1, s.labels))


def line(*points: float) -> Tensor:
    return torch.tensor(points, dtype=torch.float32)[:, None]


def test_it_is_the_classifier_of_scikit_learn_where_there_is_no_tie(split):
    sklearn = pytest.importorskip("sklearn.neighbors")
    query, _, reference, labels = split
    theirs = sklearn.KNeighborsClassifier(4).fit(reference.numpy(), labels.numpy())
    distance, index = (torch.from_numpy(a) for a in theirs.kneighbors(query.numpy()))
    three = labels[index[:, :3]].sort(1).values
    clear = (distance[:, 2] < distance[:, 3]) & ((three[:, 0] == three[:, 1]) | (three[:, 1] == three[:, 2]))
    assert clear.float().mean() > 0.9
    want = torch.from_numpy(
        sklearn.KNeighborsClassifier(3).fit(reference.numpy(), labels.numpy()).predict(query.numpy())
    )
    assert torch.equal(vote(query, reference, labels)[clear], want[clear])


def test_one_neighbor_gives_its_own_class(split):
    _, _, reference, labels = split
    assert torch.equal(vote(reference, reference, labels, 1), labels)


@pytest.mark.parametrize("classes", [(2, 0, 1), (0, 1, 2), (1, 2, 0)])
def test_of_three_that_differ_the_nearest_wins(classes):
    labels = torch.tensor(classes)
    assert vote(line(0.0), line(1, 2, 3), labels, 3).tolist() == [classes[0]]
    assert vote(line(0.0), line(3, 2, 1), labels, 3).tolist() == [classes[2]]


@pytest.mark.parametrize("near", ["abba", "abab", "aabb", "abbbaa", "abbacc", "abbbccca"])
@pytest.mark.parametrize("swap", [False, True])
def test_the_nearest_breaks_every_tie(near, swap):
    """Classes with as many votes as any other, in the order of their distance: the class of the first of them wins."""
    names = {"a": 1, "b": 0, "c": 2} if swap else {"a": 0, "b": 1, "c": 2}
    most = max(near.count(name) for name in near)
    first = next(name for name in near if near.count(name) == most)
    labels = torch.tensor([names[name] for name in near])
    got = vote(line(0.0), torch.arange(1.0, len(near) + 1)[:, None], labels, len(near))
    assert got.tolist() == [names[first]]


def test_more_votes_beat_the_nearest():
    assert vote(line(0.0), line(1, 2, 3), torch.tensor([0, 1, 1]), 3).tolist() == [1]
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    assert vote(line(0.0), torch.arange(1.0, 8.0)[:, None], labels, 7).tolist() == [1]


def test_chunks_change_nothing(split, monkeypatch):
    query, _, reference, labels = split
    whole = vote(query, reference, labels)
    for chunk in (1, 7, 100):
        monkeypatch.setattr(neighbors, "CHUNK", chunk)
        rows = query[:60] if chunk == 1 else query
        assert torch.equal(vote(rows, reference, labels), whole[: len(rows)])


def test_the_order_of_the_references_changes_nothing(split):
    query, _, reference, labels = split
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    assert torch.equal(vote(query, reference[order], labels[order]), vote(query, reference, labels))


def test_it_knows_digits(split):
    query, want, reference, labels = split
    assert (vote(query, reference, labels) == want).float().mean() >= 0.97
