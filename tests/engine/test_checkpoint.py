"""A checkpoint is there whole or not at all; what was changed since is noticed; what is good is never lost."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from diffcli.engine import checkpoint, files
from diffcli.engine.checkpoint import (
    latest,
    load_into,
    open_checkpoint,
    pack_optimizer,
    save,
    unpack_optimizer,
)
from diffcli.engine.manifest import Damaged, seal
from diffcli.engine.model_folder import open_model, write_model
from diffcli.engine.rundir import committed
from diffcli.errors import EnvironmentProblem, NonFinite, RunError
from tensors import odd

META = {"recipe": {"method": {"name": "rf", "width": 2}}, "facts": {"shape": (1, 8, 8)}}


def tensors(step: int = 0) -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(step)
    w = torch.randn(3, 2, generator=generator)
    return {"model": {"w": w, "n": torch.tensor(step)}, "ema": {"w": w / 2}, "optim": {"00000.exp_avg": w.T}}


def put(run: Path, step: int, **options: int) -> Path:
    return save(run, step, tensors(step), {"step": step, "pending": [{"loss": 0.1}]}, META, **options)


def hear(run: Path, move: bool = True) -> tuple[checkpoint.Checkpoint | None, list[str]]:
    lines: list[str] = []
    return latest(run, warn=lines.append, move=move), lines


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def test_what_is_read_is_what_was_saved_bit_for_bit(tmp_path: Path) -> None:
    folder = put(tmp_path, 200)
    assert folder == tmp_path / "checkpoints" / "step-00000200"
    read, lines = hear(tmp_path)
    assert read is not None and not lines
    assert (read.step, read.method, read.state) == (200, "rf", {"step": 200, "pending": [{"loss": 0.1}]})
    assert read.meta == json.loads(json.dumps(META))
    assert all(equal(read.tensors(name), group) for name, group in tensors(200).items())
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000200"]


def test_shared_strided_and_odd_tensors_survive(tmp_path: Path) -> None:
    group = odd()
    assert equal(open_checkpoint(save(tmp_path, 1, {"model": group}, {}, META)).tensors("model"), group)


def damage(folder: Path) -> dict[str, object]:
    """Ways to spoil a checkpoint, each by its name."""

    def rewrite(name: str, change: object) -> object:
        return lambda: (folder / name).write_bytes(change((folder / name).read_bytes()))  # type: ignore[operator]

    def link(name: str) -> None:
        (folder / name).rename(folder.parent / "elsewhere")
        (folder / name).symlink_to(folder.parent / "elsewhere")

    ways: dict[str, object] = {
        "extra file": (folder / "more.safetensors").touch,
        "extra link": lambda: (folder / "x").symlink_to("/"),
    }
    for name in ("manifest.json", "state.json", "model.safetensors", "ema.safetensors", "optim.safetensors"):
        ways |= {
            f"{name} missing": (folder / name).unlink,
            f"{name} empty": rewrite(name, lambda data: b""),
            f"{name} cut by one": rewrite(name, lambda data: data[:-1]),
            f"{name} longer by one": rewrite(name, lambda data: data + b"\n"),
            f"{name} a link": lambda name=name: link(name),
            f"{name} a folder": lambda name=name: ((folder / name).unlink(), (folder / name).mkdir()),
            f"{name} a pipe": lambda name=name: ((folder / name).unlink(), os.mkfifo(folder / name)),
        }
    return ways


def test_every_kind_of_damage_is_noticed_and_nothing_is_deleted(tmp_path: Path) -> None:
    for way in damage(tmp_path):
        run = tmp_path / way.replace(" ", "_")
        put(run, 1)
        folder = put(run, 2)
        damage(folder)[way]()  # type: ignore[operator]
        before = sorted(p.name for p in folder.iterdir())
        found, lines = hear(run, move=False)
        assert found is not None and found.step == 1 and len(lines) == 1 and folder.exists(), way
        found, lines = hear(run)
        assert found is not None and found.step == 1 and len(lines) == 1, way
        aside = [p for p in (run / "checkpoints").iterdir() if p.name.startswith(".corrupt-step-00000002-")]
        assert len(aside) == 1 and sorted(p.name for p in aside[0].iterdir()) == before and aside[0].name in lines[0], (
            way
        )
        assert hear(run)[1] == [], way


def test_a_flipped_bit_in_any_file_is_noticed(tmp_path: Path) -> None:
    folder = put(tmp_path, 1)
    dice = random.Random(0)
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        for offset in {0, len(data) - 1, *dice.sample(range(len(data)), min(60, len(data)))}:
            spoiled = bytearray(data)
            spoiled[offset] ^= 1 << dice.randrange(8)
            path.write_bytes(spoiled)
            assert hear(tmp_path, move=False)[0] is None, (path.name, offset)
        path.write_bytes(data)
    assert hear(tmp_path)[0] is not None


def test_damage_is_told_of_even_where_no_one_listens(tmp_path: Path) -> None:
    (put(tmp_path, 1) / "state.json").unlink()
    with pytest.warns(UserWarning, match="damaged checkpoint passed over"):
        assert latest(tmp_path, move=False) is None


def test_a_folder_under_the_name_of_another_step_is_damage(tmp_path: Path) -> None:
    put(tmp_path, 1).rename(tmp_path / "checkpoints" / "step-00000009")
    with pytest.raises(Damaged, match="holds step 1"):
        open_checkpoint(tmp_path / "checkpoints" / "step-00000009")


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"../../state.json": {"size": 1, "sha256": "0" * 64}, "state.json": {"size": 1, "sha256": "0" * 64}}},
        {"files": {"state.json": {"size": 2**62, "sha256": "0" * 64}}},
        {"files": {"state.json": {"size": True, "sha256": "0" * 64}}},
        {"files": {"state.json": {"size": 1, "sha256": "g" * 64}}},
        {"files": {"state.json": [1]}},
        {"files": {}},
        {"files": []},
        {"step": "1"},
        {"meta": None},
    ],
)
def test_a_well_sealed_manifest_of_another_form_opens_no_file(tmp_path: Path, change: dict[str, object]) -> None:
    folder = put(tmp_path, 1)
    body = json.loads((folder / "manifest.json").read_bytes())
    del body["seal"]
    (folder / "manifest.json").write_bytes(seal({**body, **change}))
    with pytest.raises(Damaged, match="diffcli"):
        open_checkpoint(folder)


def test_a_newer_format_is_told_from_damage_and_left_alone(tmp_path: Path) -> None:
    folder = put(tmp_path, 1)
    body = json.loads((folder / "manifest.json").read_bytes())
    del body["seal"]
    (folder / "manifest.json").write_bytes(seal({**body, "format": 2}))
    with pytest.raises(RunError, match="update diffcli"):
        hear(tmp_path)
    assert folder.exists()


@pytest.mark.parametrize(
    "text",
    [
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": 1e999}',
        '{"a": 1, "a": 2}',
        "[1]",
        "",
        "[" * 100_000,
        '{"a": ' + "9" * 5000 + "}",
        '"\\ud800',
    ],
)
def test_json_is_strict(text: str) -> None:
    with pytest.raises(RunError):
        files.parse_json(text.encode(), "state.json")


def header(table: bytes, size: int | None = None, body: bytes = bytes(8)) -> bytes:
    return (len(table) if size is None else size).to_bytes(8, "little") + table + body


HOSTILE = {
    "header of 2^62": header(b"{}", 2**62),
    "header of 2^64 - 1": header(b"{}", 2**64 - 1),
    "header of 9 MiB": header(b" " * (9 * 2**20)),
    "header beyond the end": header(b"{}", 11),
    "three bytes": b"abc",
    "nothing": b"",
    "a name twice": header(
        b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    ),
    "shape of 2^40": header(b'{"w":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,8]}}'),
    "negative offsets": header(b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}}'),
    "overlap": header(
        b'{"v":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    ),
    "unknown type": header(b'{"w":{"dtype":"PICKLE","shape":[2],"data_offsets":[0,8]}}'),
    "a pickle": b"\x80\x04\x95" + bytes(64),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_model_folder_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(HOSTILE[kind])
    with pytest.raises(RunError):
        open_model(tmp_path).tensors("model")


def test_a_model_folder_is_whole_and_never_overwritten(tmp_path: Path) -> None:
    group = tensors(7)["ema"]
    folder = write_model(tmp_path / "deep" / "model", {"": ({**META, "step": 7}, group)})
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    model = open_model(folder)
    assert (model.step, model.method) == (7, "rf") and equal(model.tensors("model"), group)
    assert model.sha256 == open_checkpoint(put(tmp_path, 7)).sha256, "an export has the hash of its average"
    with pytest.raises(RunError, match="exists already"):
        write_model(folder, {"": (META, group)})
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_pruning_keeps_the_newest_the_multiples_and_the_one_just_saved(tmp_path: Path) -> None:
    def steps(run: Path) -> list[int]:
        return [step for step, _ in committed(run)]

    for step in range(10, 100, 10):
        put(tmp_path, step, keep=2, keep_every=40)
    assert steps(tmp_path) == [40, 80, 90]
    put(tmp_path, 15, keep=2)
    assert steps(tmp_path) == [15, 80, 90], "one that was saved is there, though others are of later steps"


def test_pruning_follows_no_link(tmp_path: Path) -> None:
    outside = put(tmp_path / "other", 1)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-00000001").symlink_to(outside)
    (tmp_path / "checkpoints" / ".tmp-00000001-999999999").symlink_to(outside)
    for step in (2, 3, 4, 5):
        put(tmp_path, step, keep=2)
    assert len(list(outside.iterdir())) == 5
    assert [step for step, _ in committed(tmp_path)] == [4, 5]


def test_leftovers_of_dead_writers_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (dead.pid, os.getppid()):
        (tmp_path / "checkpoints" / f".tmp-00000001-{pid}").mkdir(parents=True)
    put(tmp_path, 2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        f".tmp-00000001-{os.getppid()}",
        "step-00000002",
    ]


def test_saving_a_step_again_loses_neither(tmp_path: Path) -> None:
    put(tmp_path, 2)
    save(tmp_path, 2, tensors(5), {}, META)
    found, _ = hear(tmp_path)
    assert found is not None and equal(found.tensors("ema"), tensors(5)["ema"])
    aside = [p for p in (tmp_path / "checkpoints").iterdir() if p.name.startswith(".replaced-step-00000002-")]
    assert equal(open_checkpoint(aside[0]).tensors("ema"), tensors(2)["ema"])


@pytest.mark.parametrize("call", range(1, 6))
def test_a_full_disk_leaves_the_old_checkpoint_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    put(tmp_path, 1)
    left, fsync = call, os.fsync

    def full(fd: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentProblem, match="no space is left"):
        put(tmp_path, 2)
    monkeypatch.undo()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
    found, lines = hear(tmp_path)
    assert found is not None and found.step == 1 and not lines


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(NonFinite, match="in w; it is not saved"):
        save(tmp_path, 1, {"model": {"v": torch.ones(1), "w": torch.tensor([1.0, float("nan")])}}, {}, META)
    assert list((tmp_path / "checkpoints").iterdir()) == []


NURSERY = """
import os, random, signal, sys, time, torch
from pathlib import Path
from diffcli.engine.checkpoint import save
torch.set_num_threads(1)
run, dice = Path(sys.argv[1]), random.Random(1)
for line in sys.stdin:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        for step in range(int(line) + 1, int(line) + 100_000):
            w = torch.full((int(sys.argv[2]),), float(step))
            save(run, step, {"model": {"w": w}, "ema": {"w": w}}, {"step": step}, {}, keep=2)
            os.write(write, b"x")
    os.close(write)
    os.read(read, 1)
    time.sleep(dice.uniform(0, 0.06))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    print(1 + len(os.read(read, 65536)), flush=True)
    os.close(read)
"""


def all_verify(run: Path) -> None:
    for _, path in committed(run):
        open_checkpoint(path).verify()


def kill(run: Path, times: int, size: int) -> None:
    """Kill -9 a process that saves in a loop, `times` times at random moments; its latest is whole, and no step it told of is lost."""
    argv = [sys.executable, "-W", "ignore", "-c", NURSERY, str(run), str(size)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as nursery:
        assert nursery.stdin is not None and nursery.stdout is not None
        last = 0
        for _ in range(times):
            nursery.stdin.write(f"{last}\n")
            nursery.stdin.flush()
            told = int(nursery.stdout.readline())
            found, lines = hear(run)
            assert lines == []
            all_verify(run)
            assert found is not None and found.state == {"step": found.step}
            assert found.step in (last + told, last + told + 1), "committed, and perhaps not yet told of"
            for name in ("model", "ema"):
                assert torch.equal(found.tensors(name)["w"], torch.full((size,), float(found.step)))
            last = found.step
        nursery.stdin.close()
    put(run, last + 1)
    assert not [p for p in (run / "checkpoints").iterdir() if p.name.startswith((".tmp", ".corrupt"))]


@pytest.mark.slow
def test_kill_9_at_any_moment_leaves_a_whole_latest(tmp_path: Path) -> None:
    kill(tmp_path, 20, 64)


@pytest.mark.slow
def test_kill_9_at_any_moment_leaves_a_whole_latest_of_many_bytes(tmp_path: Path) -> None:
    kill(tmp_path, 100, 100_000)


COUNTING = """
import os, signal, sys, torch
from pathlib import Path
from diffcli.engine.checkpoint import save
from diffcli.engine.environment import versions
torch.set_num_threads(1)
versions()  # once a process: it reads files too
for line in sys.stdin:
    step, last = map(int, line.split())
    pid = os.fork()
    if pid == 0:
        left = last
        def count(event, args):
            global left
            left -= event == "open" or event.startswith("os.")
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(count)
        save(Path(sys.argv[1]), step, {"model": {"w": torch.ones(1)}}, {"step": step}, {}, keep=2)
        left = -1
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.mark.slow
def test_kill_9_at_each_file_operation_of_a_save_leaves_every_checkpoint_whole(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        put(tmp_path, step)
    argv = [sys.executable, "-W", "ignore", "-c", COUNTING, str(tmp_path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as nursery:
        assert nursery.stdin is not None and nursery.stdout is not None
        committed_by = []
        for operation in range(1, 200):
            before = committed(tmp_path)[-1][0]
            nursery.stdin.write(f"{before + 1} {operation}\n")
            nursery.stdin.flush()
            status = int(nursery.stdout.readline())
            assert status in (0, -signal.SIGKILL)
            found, lines = hear(tmp_path)
            assert found is not None and not lines
            committed_by.append(found.step - before)
            all_verify(tmp_path)
            if status == 0:
                break
        nursery.stdin.close()
    assert committed_by == sorted(committed_by), "killed before the one rename there is nothing new, after it all is"
    assert 15 < operation < 60 and status == 0


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def test_weights_load_all_or_none_and_every_misfit_is_named() -> None:
    module, source = net(), net().state_dict()
    load_into(module, source, "x")
    assert equal(dict(module.state_dict()), dict(source))
    spoiled = {k: v.clone() for k, v in net().state_dict().items()}
    spoiled["0.weight"] = torch.zeros(4, 4)
    spoiled["0.bias"] = torch.tensor([0.0, float("inf"), 0.0])
    spoiled["1.weight"] = spoiled["1.weight"].double()
    spoiled["extra"] = torch.zeros(1)
    del spoiled["1.bias"]
    with pytest.raises(RunError) as refusal:
        load_into(module, spoiled, "runs/x")
    for part in (
        "runs/x",
        "1 missing (1.bias)",
        "1 unexpected (extra)",
        "1 of another shape (0.weight (4, 4), not (3, 2))",
        "1 of another type (1.weight float64, not float32)",
        "1 not finite (0.bias)",
    ):
        assert part in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert equal(dict(module.state_dict()), dict(source)), "not a number was copied"


def trained(seed: int, steps: int, amsgrad: bool = False) -> tuple[nn.Module, torch.optim.AdamW]:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1), nn.Linear(5, 5))  # the last one never gets a gradient
    groups = [
        {"params": module[0].parameters(), "lr": 1e-2},
        {"params": [*module[1].parameters(), *module[2].parameters()]},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.8, 0.99), amsgrad=amsgrad)
    walk(module, optimizer, steps)
    return module, optimizer


def walk(module: nn.Module, optimizer: torch.optim.AdamW, steps: int) -> None:
    for i in range(steps):
        optimizer.zero_grad()
        x = torch.randn(4, 2, generator=torch.Generator().manual_seed(i))
        module[1](module[0](x)).square().mean().backward()  # type: ignore[index]
        optimizer.step()


@pytest.mark.parametrize("amsgrad", [False, True])
def test_an_optimizer_comes_back_bit_for_bit(tmp_path: Path, amsgrad: bool) -> None:
    module, optimizer = trained(0, 5, amsgrad)
    flat, plain = pack_optimizer(optimizer)
    stored = open_checkpoint(save(tmp_path, 1, {"optim": flat, "model": module.state_dict()}, {"optimizer": plain}, {}))
    other, again = trained(1, 2, amsgrad)
    again.param_groups[0]["lr"] = 5.0
    again.param_groups[0]["betas"] = (0.0, 0.0)
    load_into(other, stored.tensors("model"), "x")
    unpack_optimizer(again, stored.tensors("optim"), stored.state["optimizer"])
    assert equal(pack_optimizer(again)[0], flat) and pack_optimizer(again)[1] == plain
    assert again.param_groups[0]["betas"] == (0.8, 0.99)
    walk(module, optimizer, 3)
    walk(other, again, 3)
    assert equal(dict(module.state_dict()), dict(other.state_dict()))


def test_an_optimizer_of_other_parameters_is_refused() -> None:
    _, optimizer = trained(0, 1)
    flat, plain = pack_optimizer(optimizer)
    single = torch.optim.AdamW(nn.Linear(2, 3).parameters())
    with pytest.raises(RunError, match="other parameter groups"):
        unpack_optimizer(single, flat, plain)
    for spoiled in (
        {**flat, "00000.exp_avg": torch.zeros(9)},
        {**flat, "99999.exp_avg": torch.zeros(9)},
        {**flat, "x": torch.zeros(9)},
    ):
        with pytest.raises(RunError, match="fits no parameter"):
            unpack_optimizer(optimizer, spoiled, plain)
    for spoiled in ({}, {"groups": None}, {"groups": [1, 2]}):  # type: ignore[assignment]
        with pytest.raises(RunError, match="other parameter groups"):
            unpack_optimizer(optimizer, flat, spoiled)


def test_no_pickle_is_written(tmp_path: Path) -> None:
    folder = put(tmp_path, 1)
    assert {p.suffix for p in folder.iterdir()} == {".json", ".safetensors"}
