"""Laws of the order of pictures in shards: each once an epoch, by address, in the memory of a window."""

from __future__ import annotations

import time
import tracemalloc

import torch

from diffcli_vision.sharded.order import Windows

COUNTS = [7, 0, 5, 11, 3, 8, 1, 6, 9, 4]


def test_each_picture_comes_once_an_epoch_in_an_order_of_its_own():
    n = sum(COUNTS)
    for width in (1, 3, 10, 50):
        order = Windows(COUNTS, width)
        epochs = order.items(0, torch.arange(3 * n)).split(n)
        assert all(torch.equal(epoch.sort().values, torch.arange(n)) for epoch in epochs)
        assert not torch.equal(epochs[0], epochs[1]) and not torch.equal(epochs[0], order.items(1, torch.arange(n)))


def test_it_is_a_function_of_seed_and_position():
    """Any part of it, by any reader, after anything else: so a resume and the share of a process are exact."""
    n = sum(COUNTS)
    whole = Windows(COUNTS, 3).items(5, torch.arange(4 * n))
    other = Windows(COUNTS, 3)
    for index in (torch.arange(3 * n, 4 * n, 7), torch.tensor([n, 0, n - 1, 2 * n + 3]), torch.arange(n - 5, n + 5)):
        assert torch.equal(other.items(5, index), whole[index])


def test_pictures_are_mixed_within_windows_alone():
    """Those of a window lie side by side, so that the shards of one window are all that is read at a time."""
    order = Windows(COUNTS, 3)
    shard = torch.repeat_interleave(torch.arange(len(COUNTS)), torch.tensor(COUNTS))
    place = 0
    for number in range(4):
        chosen = order.shards(0, 2, number)
        m = sum(COUNTS[s] for s in chosen)
        seen = order.items(0, 2 * sum(COUNTS) + torch.arange(place, place + m))
        assert set(shard[seen].tolist()) == {s for s in chosen if COUNTS[s]}
        assert not torch.equal(seen, seen.sort().values)
        place += m
    assert place == sum(COUNTS) and not order.shards(0, 2, 4)


def test_windows_and_the_order_in_each_are_others_every_time():
    """Of 40 shards of 50, four a window: its shards go by seed and epoch, and no two windows are mixed alike."""
    order = Windows([50] * 40, 4)
    chosen = [tuple(order.shards(*address, 0)) for address in ((0, 0), (0, 1), (1, 0))]
    assert len(set(chosen)) == 3
    within = []
    for number in range(3):
        seen = order.items(0, torch.arange(200 * number, 200 * (number + 1)))
        place = {shard: k for k, shard in enumerate(order.shards(0, 0, number))}
        within.append([50 * place[item // 50] + item % 50 for item in seen.tolist()])
    assert within[0] != within[1] != within[2] != within[0]


def test_one_window_is_any_order_alike():
    """Of three pictures in two shards each of the six orders comes up: 600 epochs, 100 each, standard deviation 9."""
    order = Windows([1, 2], 2)
    rows = order.items(0, torch.arange(1800)).reshape(600, 3)
    counts = torch.unique(rows, dim=0, return_counts=True)[1]
    assert len(counts) == 6 and counts.min() > 55 and counts.max() < 145


def test_a_billion_pictures_are_planned_in_the_memory_of_a_window():
    """100,000 shards of 10,000: two numbers a shard, and one for each of the 160,000 pictures of a window; 50 MB is ample."""
    began = time.process_time()
    tracemalloc.start()
    order = Windows([10_000] * 100_000, 16)
    items = order.items(0, 3 * 10**9 + torch.tensor([0, 1, 999_999_998, 999_999_999]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    held = sum(
        t.numel() * 8
        for t in (order.counts, order.first, *order.plan(0, 3), *[order.window(0, 3, w) for w in (0, 6249)])
    )
    assert items.unique().numel() == 4 and items.min() >= 0 and items.max() < 10**9
    assert held < 10e6 and peak < 50e6 and time.process_time() - began < 4
