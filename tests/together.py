"""Several processes that work as one, for tests: each calls one function of this module and says what came of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from diffcli import recipe as recipes
from diffcli.engine.job import Job, prepare, spread
from diffcli.engine.pace import settle
from diffcli.engine.ranks import ALONE, World, joined
from diffcli.engine.step import step_once
from diffcli.errors import RankLost

UNET = {"channels": 8, "multipliers": (1, 2)}
SMALL: dict[str, dict[str, dict[str, Any]]] = {  # networks that a test can wait for; what they are trained on
    "ddpm": {"model": UNET},
    "rf": {"model": UNET},
    "iddpm": {
        "method": {"time_sampling": "importance"},
        "schedule": {"timesteps": 2},
        "dataset": {"size": 8},
        "model": UNET,
    },
    "vae": {"model": {"channels": 8}},
    "mdlm": {"model": UNET},
    "mae-noprop": {
        "dataset": {"size": 8},
        "model": {"patch": 2, "width": 32, "depth": 2, "heads": 2, "decoder_width": 16, "decoder_depth": 1},
    },
    "mdiffae": {"model": {"width": 16, "encoder_depth": 1, "decoder_depth": 1, "kernel": 3}},
}


def start(worker: str, argument: dict[str, Any], size: int = 2, **more: Any) -> list[subprocess.Popen[bytes]]:
    """The processes, each of which calls `worker` of this module with its world and the argument."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size), "DIFFCLI_WORKER": "1"}
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    env = {**os.environ, **place, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, __file__, worker, json.dumps(argument)]
    return [subprocess.Popen(command, env={**env, "RANK": str(n), "LOCAL_RANK": str(n)}, **more) for n in range(size)]


def together(worker: str, argument: dict[str, Any], folder: Path, size: int = 2) -> list[Any]:
    """What each of the processes said."""
    processes = start(worker, argument | {"folder": str(folder)}, size, stderr=subprocess.PIPE)
    ends = [process.communicate(timeout=300)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * size, "\n".join(ends)
    return [json.loads((folder / f"said-{rank}.json").read_text()) for rank in range(size)]


def made(tables: dict[str, Any], world: World = ALONE) -> Job:
    """A training over all processes, ready for its first step."""
    name = tables["method"]["name"]
    job = prepare(recipes.resolve(recipes.overlay(SMALL[name], tables)), world=world)
    settle(job)
    spread(job)
    return job


def losses(tables: dict[str, Any], steps: int, world: World = ALONE) -> list[dict[str, float]]:
    """What is logged of the first steps."""
    job = made(tables, world)
    return [step_once(job, step, steps, 0) for step in range(steps)]


def train(argument: dict[str, Any], world: World) -> Any:
    """The losses of several trainings, one after the other."""
    return [losses(tables, argument["steps"], world) for tables in argument["recipes"]]


def talk(argument: dict[str, Any], world: World) -> Any:
    """What processes tell each other."""
    order = []
    world.alone(lambda: order.append("alone"))
    world.in_turn(lambda: order.append("turn"))
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(7, dtype=torch.int64)} if world.first else None
    return {
        "share": world.share(torch.arange(7)).tolist(),
        "sum": world.sum(torch.tensor([world.rank + 1, 0.1], dtype=torch.float64)).tolist(),
        "agreed": [world.agreed([None, 15][world.rank]), world.agreed([2, 15][world.rank]), world.agreed(None)],
        "gathered": world.gathered(world.rank),
        "rows": world.rows(torch.full((world.rank + 1, 2), world.rank)).tolist(),
        "told": world.told("first" if world.first else "other"),
        "copied": {name: [t.tolist(), str(t.dtype)] for name, t in world.copied(tensors).items()},
        "order": order,
        "blamed": world.blamed(),
    }


def fail(argument: dict[str, Any], world: World) -> Any:
    """What the others hear when the first one fails, or is killed, while they wait for it; and how long that takes."""
    began, heard = time.monotonic(), ""

    def work() -> None:
        if argument["kill"]:
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("no")

    try:
        world.alone(work)
    except (ValueError, RankLost) as error:
        heard = f"{type(error).__name__}: {error}"
    return [heard, time.monotonic() - began]


if __name__ == "__main__":
    with joined() as here:
        said = {"train": train, "talk": talk, "fail": fail}[sys.argv[1]](json.loads(sys.argv[2]), here)
        (Path(json.loads(sys.argv[2])["folder"]) / f"said-{here.rank}.json").write_text(json.dumps(said))
    os._exit(0)
