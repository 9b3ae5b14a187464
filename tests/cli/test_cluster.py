"""The files for clusters: SLURM's is run with a scheduler made of paper, the scripts in the others are read by a shell."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffcli import recipe as recipes

FOLDER = Path(__file__).parents[2] / "recipes" / "cluster"
SRUN = '#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n'
SCONTROL = "#!/bin/bash\nif [ $1 = requeue ]; then touch $REQUEUED; else echo localhost; fi\n"
DIFFCLI = f'#!/bin/bash\nexec {sys.executable} -m diffcli "$@"\n'


def test_scripts_are_bash_and_recipes_exist():
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load((FOLDER / "kubernetes.yaml").read_text())
    task = yaml.safe_load((FOLDER / "skypilot.yaml").read_text())
    scripts = [job["spec"]["trainer"]["command"][-1], task["setup"], task["run"], (FOLDER / "slurm.sh").read_text()]
    for script in scripts:
        subprocess.run(["bash", "-n"], input=script.encode(), check=True)
    named = {
        word for script in scripts for a, word in zip(words(script), words(script)[1:], strict=False) if a == "--recipe"
    }
    assert named and all(recipes.named(name).is_file() for name in named)


def words(script: str) -> list[str]:
    return script.split()


@pytest.mark.slow
def test_a_slurm_job_that_is_stopped_is_queued_again_and_goes_on(tmp_path):
    """What SLURM calls is there in name only: a signal shortly before its end saves, asks for a new turn, and resumes."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("diffcli", DIFFCLI)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    slurm = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_GPUS_ON_NODE": "2",
    }
    more = {"REQUEUED": str(tmp_path / "again"), "OMP_NUM_THREADS": "1", "PATH": f"{tools}:{os.environ['PATH']}"}
    script = ["bash", str(FOLDER / "slurm.sh"), "train", "rf", "--channels", "8", "--steps", "400", "--save-every", "5"]
    job = subprocess.Popen(script, cwd=tmp_path, env={**os.environ, **slurm, **more}, stderr=subprocess.PIPE)
    run, until = tmp_path / "runs" / "slurm-7", time.monotonic() + 120
    while not list(run.glob("checkpoints/step-*")):
        assert job.poll() is None and time.monotonic() < until
        time.sleep(0.1)
    job.send_signal(signal.SIGTERM)
    assert b"saved; go on with --resume" in job.communicate(timeout=60)[1]
    assert (tmp_path / "again").exists() and not (run / "summary.json").exists()
    second = subprocess.run(script, cwd=tmp_path, env={**os.environ, **slurm, **more}, capture_output=True, timeout=240)
    assert second.returncode == 0 and (run / "summary.json").exists(), second.stderr
