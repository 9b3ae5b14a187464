"""docs/writing-a-plugin.md, followed to the letter: its files written, its commands typed, its mistakes made."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffcli import scaffold
from sites import OFFLINE

PAGE = (Path(__file__).parents[1] / "docs" / "writing-a-plugin.md").read_text(encoding="utf-8")
# A box; the line above a file's says its name, and whether it goes to the end of what is there.
BLOCK = re.compile(
    r"(?:^(?P<end>At the end of )?`(?P<path>[\w./-]+)`:\n\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
BLOCKS = [m.groupdict() for m in BLOCK.finditer(PAGE)]
ROWS = dict(re.findall(r"^\| ([^|`]*(?:`[^`]*`[^|`]*)*) \| `(.*)` \|$", PAGE, re.MULTILINE))


class Reader:
    """Who follows the page in an empty folder, in an environment of diffcli with a folder of its own for what is installed."""

    def __init__(self, folder: Path):
        self.folder, self.site = folder, folder.parent / "site"
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("DIFFCLI", "PYTHON"))}
        self.env |= {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONPATH": str(self.site)}
        self.env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), self.env["PATH"]])

    def write(self, block: dict[str, str]) -> None:
        """A file of the page, or what is added to one."""
        path = self.folder / block["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_text(encoding="utf-8") if block["end"] else ""
        path.write_text(before + block["text"], encoding="utf-8")

    def type(self, line: str) -> subprocess.CompletedProcess[str]:
        """A command as it stands; what pip would install for all goes into the folder of this test, offline."""
        word, _, rest = line.partition(" ")
        if word in ("export", "unset"):
            name, _, value = rest.partition("=")
            self.env = {k: v for k, v in self.env.items() if k != name} | ({name: value} if word == "export" else {})
            line = "true"
        if line.startswith("pip install "):
            line = " ".join(["python -m pip install", *OFFLINE, "--target", str(self.site), line[12:]])
        return subprocess.run(
            ["bash", "-c", line], cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=300
        )


def pattern(line: str) -> re.Pattern[str]:
    """A printed line, with … for what differs."""
    return re.compile(".*".join(map(re.escape, line.split("…"))))


def printed(number: int) -> Iterator[str]:
    """The lines that the page shows below a block."""
    following = BLOCKS[number + 1] if number + 1 < len(BLOCKS) else {"kind": ""}
    if following["kind"] == "text":
        yield from following["text"].splitlines()


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """All files of the page, and nothing typed."""
    made = Reader(tmp_path_factory.mktemp("reader") / "work")
    for block in BLOCKS:
        if block["path"]:
            made.write(block)
    made.env["DIFFCLI_PLUGINS"] = "evening"
    return made


@pytest.mark.slow
def test_the_page_works_in_its_order(tmp_path):
    reader = Reader(tmp_path / "work")
    ran = 0
    for number, block in enumerate(BLOCKS):
        if block["path"]:
            reader.write(block)
        elif block["kind"] == "sh":
            said = ""
            for line in block["text"].splitlines():
                done = reader.type(line)
                assert done.returncode == 0, (line, done.stdout, done.stderr)
                said, ran = said + done.stdout + done.stderr, ran + 1
            lines = said.splitlines()
            for line in printed(number):
                assert any(pattern(line).fullmatch(one) for one in lines), (line, said)
    assert ran >= 12


def test_every_file_is_named_by_its_line():
    """Eight files, one of them of three pieces; of Python, only the lines of Labelled belong to none."""
    assert len({block["path"] for block in BLOCKS if block["path"]}) == 8
    assert sum(bool(block["end"]) for block in BLOCKS) == 2
    assert sum(block["kind"] == "python" and not block["path"] for block in BLOCKS) == 1


def test_the_lines_of_labelled_are_those_of_a_new_plugin(tmp_path):
    """What is written, installed and trained with --cond label in the tests of the scaffolds."""
    (box,) = (block["text"] for block in BLOCKS if block["kind"] == "python" and not block["path"])
    made = scaffold.create("my-method", "method", tmp_path).folder / "my_method"
    written = {line.split("  #")[0].strip() for path in made.iterdir() for line in path.read_text().splitlines()}
    code = {line for line in box.splitlines() if not line.startswith("#")}
    assert len(code) == 5
    assert code <= written, code - written


def test_the_recipe_is_read(reader):
    done = reader.type("diffcli train huber-bars.toml --help")
    assert done.returncode == 0, done.stderr
    assert "[default: 0.1]" in done.stdout


FAKE = """
import json


class Run:
    def __init__(self, **given):
        self.file = open("wandb.jsonl", "a")
        self.tell("init", **given)

    def tell(self, what, **given):
        self.file.write(json.dumps({"what": what, **given}, default=vars) + "\\n")

    def log(self, row, step):
        self.tell("log", row=row, step=step)

    def finish(self):
        self.tell("finish")
        self.file.close()


class Image:
    def __init__(self, path):
        self.bytes = len(open(path, "rb").read())


init = Run
"""


@pytest.mark.slow
def test_twenty_lines_bring_a_training_to_weights_and_biases(tmp_path):
    """As typed, against a module that keeps what it is told."""
    reader = Reader(tmp_path / "work")
    (block,) = (block for block in BLOCKS if block["path"] == "curves/__init__.py")
    assert len([line for line in block["text"].splitlines() if line.strip()]) <= 20
    reader.write(block)
    (reader.folder / "wandb.py").write_text(FAKE)
    reader.type("export DIFFCLI_PLUGINS=curves")
    checked = reader.type("diffcli plugins check wandb")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    (reader.folder / "wandb.jsonl").unlink()
    short = "--channels 8 --batch-size 8 --steps 20 --sample-every 10 --output runs/told"
    done = reader.type(f"diffcli train rf {short} --loggers wandb")
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in (reader.folder / "wandb.jsonl").read_text().splitlines()]
    rows = [json.loads(line) for line in (reader.folder / "runs/told/metrics.jsonl").read_text().splitlines()]
    assert [told[0]["what"], told[-1]["what"]] == ["init", "finish"]
    assert (told[0]["id"], told[0]["config"]["train"]["steps"]) == ("told", 20)
    logs = [one for one in told if one["what"] == "log"]
    assert [{"step": one["step"], **one["row"]} for one in logs if "loss" in one["row"]] == rows
    drawn = [(one["step"], *(p["bytes"] for p in one["row"].values())) for one in logs if "loss" not in one["row"]]
    assert (10, (reader.folder / "runs/told/samples/step-00000010.png").stat().st_size) in drawn


# Of each mistake: the file, what stands in it and what is written in its place, and the command that tells.
INIT, WHY = "evening/__init__.py", "diffcli plugins why evening"
SPEC = 'name="second",'
MISTAKES: dict[str, tuple[str, str, str, str]] = {
    "`@hookimpl` is missing": (INIT, "@hookimpl\ndef diffcli_samplers", "def diffcli_samplers", WHY),
    "A hook is spelled otherwise": (INIT, "def diffcli_samplers", "def diffcli_sampler", WHY),
    "A spec is returned, not given in a list or by `yield`": (INIT, f"yield Spec(\n        {SPEC}", f"return Spec(\n        {SPEC}", WHY),
    "A name with capitals or `_`": (INIT, SPEC, 'name="my_second",', WHY),
    "A config without `frozen=True`": (INIT, "@dataclass(frozen=True, kw_only=True)\nclass Second", "@dataclass(kw_only=True)\nclass Second", WHY),
    "A field without help": (INIT, 'opt(0.5, "Where in the step the second call is made.", min=0.1, max=0.9)', "0.5", WHY),
    "A field that diffcli has already": (INIT, "node: float", "steps: float", WHY),
    "A default beyond its own bounds": (INIT, "opt(0.5, ", "opt(1.5, ", WHY),
    "Another's name": (INIT, SPEC, 'name="ddim",', WHY),
    "A target that is not there": (INIT, "sampler:second", "sampler:secnd", "diffcli plugins check second"),
    "A part of another family": (INIT, "", "", "diffcli train huber-flow --sampler unmask"),
    "eps-prediction on the rectified path": ("evening/method.py", "slope", "eps", "diffcli train huber-flow --steps 1"),
    "A loss that is no mean": ("evening/method.py", "- self.bend).mean()", "- self.bend)", "diffcli train huber-flow --steps 1"),
    "A data set that gives bytes": (
        "evening/dataset.py",
        "from diffcli_vision.datasets import Images\n",
        "from diffcli_vision import datasets\n\n\nclass Images(datasets.Images):\n    def batch(self, items, index, space):\n"
        "        return super().batch(items, index, space)._replace(x=self.images[items])\n",
        "diffcli train huber-flow --steps 1",
    ),
    "A data set without one of its attributes": (
        "evening/dataset.py",
        "from diffcli_vision.datasets import Images\n",
        "from diffcli_vision import datasets\n\n\nclass Images(datasets.Images):\n    def __init__(self, *given, **named):\n"
        "        super().__init__(*given, **named)\n        del self.class_names\n",
        "diffcli train huber-flow --steps 1",
    ),
    "`super().__init__()` is forgotten": ("evening/method.py", "super().__init__()", "pass", "diffcli train huber-flow --steps 1"),
    "A network with `classes`, but `{}` in place of `self.cond(batch, rng)`": (
        "evening/method.py", "outputs=channels)", "outputs=channels, classes=space.classes)", "diffcli train huber-flow --steps 1"
    ),
}  # fmt: skip


def test_every_mistake_of_the_table_is_made():
    assert set(ROWS) == {*MISTAKES, "The folder is not the one that holds the package"}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gives_its_line(reader, mistake):
    name, right, wrong, command = MISTAKES[mistake]
    path = reader.folder / name
    text = path.read_text(encoding="utf-8")
    assert right in text
    path.write_text(text.replace(right, wrong), encoding="utf-8")
    try:
        done = reader.type(command)
    finally:
        path.write_text(text, encoding="utf-8")
    assert pattern(ROWS[mistake]).search(done.stdout + done.stderr), done


def test_another_folder_says_so(reader, tmp_path):
    elsewhere = Reader(tmp_path)
    elsewhere.env["DIFFCLI_PLUGINS"] = "evening"
    done = elsewhere.type(WHY)
    assert ROWS["The folder is not the one that holds the package"] in done.stdout
