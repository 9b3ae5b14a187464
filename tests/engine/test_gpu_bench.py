"""benchmarks/gpu.py: what goes wrong in a part is a line, and its time is its own; the whole of it in tiny form on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from diffcli.core.exact import Mixture
from diffcli.engine.bench_walks import Still, loop
from diffcli.registry import registry
from diffcli.samplers.grid import grid
from diffcli.schedules.gaussian import Rectified

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import gpu  # noqa: E402
from gpu_parts import Given, guarded  # noqa: E402

sys.path.remove(str(BENCHMARKS))


def given(seconds: float = 60.0) -> Given:
    return Given("cpu", time.monotonic() + seconds, True)


def fake(tmp_path, monkeypatch, *lines):
    """A part that runs these lines in place of its own."""
    script = tmp_path / "part.py"
    script.write_text("\n".join(["import sys, time", *lines]), encoding="utf-8")
    monkeypatch.setattr(gpu, "__file__", str(script))


def test_a_part_that_takes_too_long_is_ended_and_keeps_its_rows(tmp_path, monkeypatch):
    fake(
        tmp_path,
        monkeypatch,
        "print('{\"a\": 1}', flush=True)",
        "print('{\"half', end='', flush=True)",
        "time.sleep(60)",
    )
    begin = time.monotonic()
    part = gpu.measured("ceilings", 1.0, given())
    assert part["rows"] == [{"a": 1}] and part["fault"] == "out of time"
    assert time.monotonic() - begin < 20


def test_what_a_part_started_is_ended_with_it(tmp_path, monkeypatch):
    """A compiler that lives on would hold the pipe, and the benchmark would wait for it."""
    started = "import subprocess; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    fake(tmp_path, monkeypatch, started, "time.sleep(60)")
    begin = time.monotonic()
    assert gpu.measured("ceilings", 1.0, given())["fault"] == "out of time"
    assert time.monotonic() - begin < 20


def test_a_part_that_breaks_says_why(tmp_path, monkeypatch):
    fake(tmp_path, monkeypatch, "print('not a row')", "print('{\"a\": 1}')", "raise ValueError('lost')")
    part = gpu.measured("ceilings", 30.0, given())
    assert part["rows"] == [{"a": 1}] and part["fault"] == "ValueError: lost"


def test_a_row_that_fails_is_a_line_and_the_others_go_on():
    assert guarded({"what": "it"}, lambda: 1 / 0) == {"what": "it", "fault": "ZeroDivisionError: division by zero"}
    assert guarded({"what": "it"}, lambda: {"s": 1}) == {"what": "it", "s": 1}


def test_time_that_a_part_leaves_goes_to_the_next(monkeypatch):
    """The last part gets all that is left."""
    shares = []
    monkeypatch.setattr(gpu, "measured", lambda name, seconds, given: shares.append(seconds) or {"rows": []})
    gpu.run(gpu.PARTS, given(100.0), lambda found: None)
    weights = [weight for weight, _ in gpu.PARTS.values()]
    assert shares[0] == pytest.approx(100 * weights[0] / sum(weights), rel=0.05)
    assert shares[-1] == pytest.approx(100, rel=0.05)


def test_verdicts_compare_like_with_like():
    rows = [
        {"network": "unet", "images/s": 30.0, "waits a step": 1},
        {"network": "unet", "compile": True, "images/s": 60.0},
        {"network": "diffusers", "images/s": 20.0},
        {"network": "diffusers", "compile": True, "images/s": 40.0},
        {"network": "its own", "images/s": 1e9, "waits a step": 3},
        {"network": "diffusers", "channels_last": True, "fault": "lost"},
    ]
    walks = [{"sampler": "a", "waits": 2, "graph_s": 1.0}, {"sampler": "b", "waits": 1, "fault": "no graph"}]
    found = gpu.verdicts({"training": {"rows": rows}, "sampling": {"rows": walks, "fault": "out of time"}})
    assert found["over diffusers eager, goal 2"] == 3.0 and found["over diffusers compiled, goal 1.2"] == 1.5
    assert found["waits a step of training, at most, goal 1"] == 3
    assert found["waits in walks, goal 0"] == 3 and found["walks captured whole"] == "1 of 2"
    assert len(found["faults"]) == 3


def test_a_walk_that_is_timed_is_the_samplers_own():
    law = Mixture(
        Rectified(),
        torch.tensor([0.5, 0.5]),
        torch.tensor([[-1.0], [1.0]], dtype=torch.float64),
        torch.tensor([0.1, 0.1]),
    )
    rng, spec = Still(3, torch.device("cpu")), registry().get("sampler", "ancestral")
    x, sampler = rng.normal("start", (1,)), spec.load()(spec.config())
    end = loop("ancestral", law, rng, 5, torch.device("cpu"))(x)
    *_, (_, expected) = sampler.trajectory(law, x, grid(law.process, 5, sampler.spacing), cond={}, rng=rng)
    assert torch.equal(end, expected)
    assert torch.equal(rng.normal("step", (1,)), x)


@pytest.mark.slow
def test_all_of_it_in_tiny_form(tmp_path):
    """Every part ends in time with rows that hold what they promise, and none has a fault but for what is not installed."""
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--device", "cpu", "--tiny", "--seconds", "400"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "gpu.json")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    parts = found["parts"]
    assert set(parts) == set(gpu.PARTS) and not any("fault" in part for part in parts.values())
    faults = [row for part in parts.values() for row in part["rows"] if "fault" in row]
    assert all(row.get("network") == "diffusers" for row in faults), faults
    assert {row["method"] for row in parts["training"]["rows"]} == set(registry().specs("method"))
    assert all(row["images/s"] > 0 for row in parts["training"]["rows"] if "fault" not in row)
    gaussian = {name for name, spec in registry().specs("sampler").items() if spec.family == "gaussian"}
    assert {row["sampler"] for row in parts["sampling"]["rows"] if "sampler" in row} == gaussian
    assert [row["background"] for row in parts["saving"]["rows"]] == [False, True]
    assert found["environment"]["tiny"] is True
