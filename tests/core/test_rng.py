"""A number is a pure function of its address."""

import torch

from diffcli.core.random import Blocks, Rows, key


def test_50000_images_have_50000_seeds():
    assert len({key(0, "prior", i) for i in range(50_000)}) == 50_000
    assert all(0 <= key(seed, "eps", 2**32 - 1) < 2**32 for seed in range(20))


def test_seed_purpose_and_number_all_matter():
    assert len({key(0, "a", 1), key(1, "a", 1), key(0, "b", 1), key(0, "a", 2), key(0, "a", 1, 1)}) == 5


def test_rows_do_not_depend_on_the_composition_of_the_batch():
    whole = Rows(3, torch.arange(16), 100)
    first, again = whole.normal("prior", (2, 3)), whole.normal("prior", (2, 3))
    for index in (torch.arange(16).flip(0), torch.tensor([5]), torch.tensor([7, 2, 9])):
        part = Rows(3, index, 100)
        assert torch.equal(part.normal("prior", (2, 3)), first[index])
        assert torch.equal(part.normal("prior", (2, 3)), again[index])
    assert not torch.equal(first, again)


def test_blocks_do_not_depend_on_the_split_of_the_batch():
    index = torch.arange(64, 128)
    for size in (1, 13, 16, 64):
        whole, parts = Blocks(0, index, 64), [Blocks(0, i, 64) for i in index.split(size)]
        for purpose, shape in (("eps", (3, 4)), ("label", ()), ("eps", (3, 4)), ("big", (40, 40))):
            assert torch.equal(whole.normal(purpose, shape), torch.cat([p.normal(purpose, shape) for p in parts]))
        assert torch.equal(whole.strata("time"), torch.cat([p.strata("time") for p in parts]))


def test_blocks_are_the_same_at_any_batch_size():
    small = [Blocks(0, torch.arange(k, k + 8), 8).normal("eps", (5,)) for k in range(0, 32, 8)]
    assert torch.equal(torch.cat(small), Blocks(0, torch.arange(32), 32).normal("eps", (5,)))


def test_the_second_draw_differs_and_another_purpose_does_not_disturb():
    a, b = Blocks(0, torch.arange(8), 8), Blocks(0, torch.arange(8), 8)
    first = a.normal("eps", (4,))
    b.uniform("label", ())
    assert torch.equal(first, b.normal("eps", (4,)))
    assert not torch.equal(first, a.normal("eps", (4,)))


def test_strata_hold_one_value_in_each_interval():
    for rng in (Blocks(1, torch.arange(64, 128), 64), Rows(1, torch.arange(64), 64)):
        u = rng.strata("time")
        assert u.dtype == torch.float64
        assert (u > 0).all() and (u < 1).all()
        assert torch.equal((u * 64).long().sort().values, torch.arange(64))


def test_strata_of_evaluation_do_not_depend_on_the_batch():
    whole = Rows(0, torch.arange(100), 100).strata("time")
    assert torch.equal(torch.cat([Rows(0, i, 100).strata("time") for i in torch.arange(100).split(7)]), whole)


def test_the_global_generator_does_not_move():
    state = torch.random.get_rng_state()
    Rows(0, torch.arange(4), 4).normal("prior", (3,))
    Blocks(0, torch.arange(4), 4).strata("time")
    assert torch.equal(state, torch.random.get_rng_state())


def test_draws_have_the_law_they_are_named_after():
    rng = Blocks(0, torch.arange(20_000), 20_000)
    z, u = rng.normal("z", (), torch.float64), rng.uniform("u", ())
    assert abs(z.mean()) < 0.03 and abs(z.std() - 1) < 0.03
    assert abs(u.mean() - 0.5) < 0.01 and u.min() >= 0 and u.max() < 1
