"""The command line: lazy, strict, and every option of a part a flag."""

from __future__ import annotations

import itertools
import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from diffcli.cli.app import COMMANDS, main
from diffcli.cli.eval import PANELS as EVAL_PANELS
from diffcli.cli.flags import first_positional, peek
from diffcli.options import options
from diffcli.parts import fits
from diffcli.recipe import dumps, read, resolve
from diffcli.registry import Registry, sources
from diffcli.sections import EvalOptions, TrainOptions

HEAVY = {"torch", "timm", "huggingface_hub", "torchvision"}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The engine, replaced by one that only keeps what it is called with."""
    calls: dict[str, Any] = {}

    def train(recipe: Any, output: Any, **more: Any) -> Path:
        calls["train"] = SimpleNamespace(recipe=recipe, output=output, **more)
        return Path("runs/toy/now")

    def draw(run: Path, recipe: Any, **more: Any) -> tuple[Path, dict[str, Any]]:
        calls["draw"] = SimpleNamespace(run=run, recipe=recipe, **more)
        return Path("pictures"), {"nfe": 7}

    def evaluate(run: Path, recipe: Any, options: Any, *_: Any) -> list[dict[str, Any]]:
        calls.setdefault("evaluate", []).append(SimpleNamespace(run=run, recipe=recipe, options=options))
        return [{"metric": "loss", "value": 0.5, "n": 10}]

    def compare(runs: Any, recipes: Any, options: Any, *_: Any) -> Any:
        records = [{"run": str(one[0]), **evaluate(*one)[0]} for one in zip(runs, recipes, options, strict=True)]
        return SimpleNamespace(records=records, files=[Path("compare/table.json")], table=lambda: (["metric"], []))

    for name, function in {"train": train, "draw": draw, "evaluate": evaluate, "compare": compare}.items():
        module = ModuleType(f"diffcli.engine.{name}")
        setattr(module, name, function)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


def run_folder(name: str = "toy", **tables: Any) -> Path:
    """A run with a checkpoint, as far as the resolver looks."""
    path = Path("runs") / name / "20260101-000000"
    (path / "checkpoints" / "step-00000100").mkdir(parents=True)
    (path / "recipe.toml").write_text(dumps(resolve({"method": {"name": name}, **tables})))
    return path


def test_help_and_plugins_are_torch_free(toy: Path, python: Callable) -> None:
    lines = (
        ["--help"],
        ["plugins"],
        ["train", "toy", "--help"],
        ["train", "mae-noprop", "--help"],
        ["train", "mdiffae", "--help"],
        ["sample", "toy", "--help"],
        ["train", "toy", "--lrr", "1"],
    )
    code = (
        f"import sys, diffcli.cli.app as a; [a.main(x) for x in {lines!r}]; sys.exit(bool({HEAVY} & set(sys.modules)))"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "Train, sample, evaluate" in done.stdout


@pytest.mark.parametrize("line", ["--help", "plugins"])
def test_a_look_around_costs_a_quarter_of_a_second(python: Callable, line: str) -> None:
    """User and system time of the process, the best of five: what else the machine does is not counted."""
    costs = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert python("-m", "diffcli", line).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(costs) <= 0.25, costs


def test_import_diffcli_is_torch_free_and_typer_free(python: Callable) -> None:
    code = f"import sys, diffcli, diffcli.recipe; sys.exit(bool(({HEAVY} | {{'typer', 'rich'}}) & set(sys.modules)))"
    assert python("-c", code).returncode == 0


def test_nothing_of_the_face_imports_click() -> None:
    import diffcli

    face = Path(diffcli.__file__).parent
    for path in (*face.glob("*.py"), *(face / "cli").glob("*.py")):
        assert "import click" not in path.read_text(), path


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "diffcli 0.1.0\n"


def test_every_command_takes_json_and_debug(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_folder()
    for name in COMMANDS:
        choice = {"train": ["toy"], "sample": ["toy"], "eval": ["toy"]}.get(name, [])
        assert main([name, *choice, "--help"]) == 0
        shown = capsys.readouterr().out
        assert "--json" in shown, name
        assert "--debug" in shown, name


def test_help_has_a_panel_for_each_part_with_its_defaults(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "toy", "--help"]) == 0
    shown = capsys.readouterr().out
    for text in (
        "Method: toy",
        "Network: toy-net",
        "Training",
        "A toy [of tests].",
        "Law of t [0, 1].",
        "<eps|x0|v>",
        "--extra",
        "--no-extra",
    ):
        assert text in shown
    assert "Schedule" not in shown, "a panel without options is not shown"
    rows = {line.split()[1]: line for line in shown.splitlines() if line.startswith("│ --")}
    assert "[default: 16]" in rows["--channels"], "of the method"
    assert "[default: 100]" in rows["--steps"], "of the method"
    assert "[default: 128]" in rows["--batch-size"], "of diffcli"


def test_only_the_kinds_a_method_uses_are_flags(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "plain", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--dataset" in shown
    assert "--sampler" not in shown
    assert main(["train", "plain", "--sampler", "toy-still"]) == 2
    assert capsys.readouterr().err == "error: diffcli train plain has no option --sampler; plain takes no sampler\n"


def test_a_chosen_part_brings_its_flags(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "toy", "--sampler", "toy-noisy", "--help"]) == 0
    assert "--eta-toy" in capsys.readouterr().out
    assert main(["sample", "toy", "--sampler=toy-still", "--eta-toy", ".5"]) == 2
    assert capsys.readouterr().err == (
        "error: diffcli sample toy has no option --eta-toy with sampler toy-still; --sampler toy-noisy has it\n"
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train tpy", "no method named 'tpy'; did you mean 'toy'?"),
        ("train", "diffcli train needs a method, or a recipe file that ends in .toml; the methods are: "),
        ("sample toy -n 3", "diffcli sample toy has no option -n; did you mean --samples?\n"),
        ("sample toy --n 3", "diffcli sample toy has no option --n; did you mean --samples?\n"),
        ("eval toy --num-samples 3", "diffcli eval toy has no option --num-samples; did you mean --samples?\n"),
        ("train toy --samplr x", "diffcli train toy has no option --samplr; did you mean --sampler?"),
        ("train toy --lr fast", "--lr is 'fast', but takes a finite number, 0 or more"),
        ("train toy --lr", "--lr needs a value, <float 0..>\n"),
        ("train toy --extra=1", "option '--extra' does not take a value"),
        ("train toy --guidance-scale 2", "diffcli train toy has no option --guidance-scale; it is an option of diffcli sample"),
        ("train toy --eta-toy 1", "diffcli train toy has no option --eta-toy; it is an option of diffcli sample with --sampler toy-noisy"),
        ("train toy more", "got unexpected extra argument"),
        ("train mask --sampler toy-still", "toy-still samples gaussian processes, but mask is masked; use one of: confidence, first-hitting, remdm, toy-reveal, unmask"),
        ("train toy --schedule toy-mask", "toy-mask is a masked schedule, but toy is gaussian; use one of: "),
        ("train toy --model toy-nt", "no model named 'toy-nt'; did you mean 'toy-net'?"),
        ("train toy --steps 3 --epochs 2", "[train] steps and epochs are two ways to say one length; keep one"),
        ("train toy --schedule toy-zero --prediction eps", "eps-prediction has no x_0 where alpha is 0 (toy-zero at t = 1)"),
        ("train toy --recipe nothing.toml", "recipe nothing.toml cannot be read: No such file or directory"),
        ("trian toy", "there is no command 'trian'; did you mean train?"),
        ("--versoin", "diffcli has no option --versoin; did you mean --version?"),
        ("plugins why nothing", "nothing is named 'nothing'; see diffcli plugins"),
        ("bench samplers --samplers toy-stil", "no sampler named 'toy-stil'; did you mean 'toy-still'?"),
        ("data check toy-dat", "no dataset named 'toy-dat'; did you mean 'toy-data'?"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_two(toy: Path, capsys: pytest.CaptureFixture[str], line: str, message: str) -> None:
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


def test_a_flag_beats_the_recipe_and_the_recipe_the_method(
    toy: Path, engine: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("r.toml").write_text('[method]\nname = "toy"\nlevels = [3]\n[train]\nsteps = 50\nbatch_size = 64\nkeep = 5\n')
    assert main(["train", "r.toml", "--batch-size", "32", "--keep=5", "--output", "here", "--json"]) == 0
    out, err = capsys.readouterr()
    call = engine["train"]
    o = call.recipe.train
    assert (o.batch_size, o.steps, o.lr, o.log_every) == (32, 50, 0.01, 10)
    assert call.recipe.method.config.levels == (3,)
    assert (call.output, call.resume) == (Path("here"), None)
    assert "flag     batch_size=32 keep=5\n" in err
    assert "recipe   levels=[3] steps=50\n" in err
    assert "method   channels=16 lr=0.01\n" in err
    assert out.splitlines()[0] == "runs/toy/now"
    assert json.loads(out.splitlines()[-1]) == {"run": "runs/toy/now", "method": "toy"}


def test_help_shows_the_values_of_the_recipe(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("r.toml").write_text('[method]\nname = "toy"\n[train]\nepochs = 7\n[model]\nname = "toy-other"\n')
    for line in (
        ["train", "r.toml", "--help"],
        ["train", "--help", "toy", "--recipe", "r.toml"],
        ["train", "--recipe=r.toml", "--help"],
    ):
        assert main(line) == 0
        rows = {row.split()[1]: row for row in capsys.readouterr().out.splitlines() if row.startswith("│ --")}
        assert "[default: 7.0]" in rows["--epochs"]
        assert "default" not in rows["--steps"], "another length than the recipe's holds no more"
        assert "--channels" not in rows


def test_a_flag_for_one_length_replaces_the_recipes(toy: Path, engine: dict[str, Any]) -> None:
    Path("r.toml").write_text('[method]\nname = "toy"\n[train]\nepochs = 7\n')
    assert main(["train", "r.toml", "--steps", "5"]) == 0
    assert (engine["train"].recipe.train.steps, engine["train"].recipe.train.epochs) == (5, None)


def test_the_order_of_flags_is_free(toy: Path, engine: dict[str, Any]) -> None:
    first = ["train", "toy", "--steps", "5", "--extra", "--model", "toy-net", "--channels", "4"]
    second = ["train", "--channels", "4", "--extra", "--steps", "5", "toy", "--model=toy-net"]
    made = []
    for line in (first, second):
        assert main(line) == 0
        made.append(engine["train"].recipe)
    assert made[0] == made[1]
    assert made[0].method.config.extra is True
    assert made[0].parts["model"].config.channels == 4


def test_another_recipe_than_the_method_is_refused(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("r.toml").write_text('[method]\nname = "toy"\n')
    assert main(["train", "mask", "--recipe", "r.toml"]) == 2
    assert capsys.readouterr().err == "error: --recipe r.toml is for toy, not for mask\n"


def test_a_method_without_a_run_has_help_and_then_exit_4(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "toy", "--help"]) == 0
    capsys.readouterr()
    assert main(["sample", "tpy"]) == 2
    assert capsys.readouterr().err == "error: no method named 'tpy'; did you mean 'toy'?\n"
    for line in (["sample", "toy"], ["eval", "toy"], ["export", "toy", "here"]):
        assert main(line) == 4
        assert capsys.readouterr().err == "error: no run of toy below runs: train one first with diffcli train toy\n"


def test_sample_lays_flags_over_the_runs_recipe(
    toy: Path, engine: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = run_folder(sampler={"name": "toy-noisy", "eta_toy": 0.25}, sample={"samples": 9, "columns": 3})
    assert main(["sample", "--help", str(path)]) == 0
    rows = {row.split()[1]: row for row in capsys.readouterr().out.splitlines() if row.startswith("│ --")}
    assert "[default: 0.25]" in rows["--eta-toy"]
    assert "[default: 9]" in rows["--samples"]

    assert main(["sample", "--samples", "4", "toy", "--eta-toy", "1", "--json"]) == 0
    call = engine["draw"]
    assert call.run == path
    assert (call.recipe.sample.samples, call.recipe.sample.columns) == (4, 3)
    assert call.recipe.parts["sampler"].config.eta_toy == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"folder": "pictures", "run": str(path), "nfe": 7}

    assert main(["sample", "toy", "--sampler", "toy-still"]) == 0
    assert engine["draw"].recipe.tables()["sampler"] == {"name": "toy-still"}


def test_eval_measures_several_runs_as_each_is_drawn(
    toy: Path, engine: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    first = run_folder(sample={"steps": 20, "samples": 9, "clip": 0.5})
    second = run_folder("mask")
    assert main(["eval", "toy", "--samples", "50", str(second), "--json"]) == 0
    one, two = engine["evaluate"]
    assert (one.run, two.run) == (first, second)
    assert (one.options.samples, one.options.steps, one.options.clip) == (50, 20, 0.5)
    assert (two.options.samples, two.options.steps, two.options.clip) == (50, None, None)
    records = json.loads(capsys.readouterr().out.splitlines()[-1])["records"]
    assert [record["run"] for record in records] == [str(first), str(second)]
    engine.clear()
    assert main(["eval", "toy"]) == 0
    assert engine["evaluate"][0].options.samples == 1000, "how many are drawn is a matter of the measure"


def test_eval_tells_all_of_a_measure_and_where_it_is_kept(
    toy: Path, engine: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run_folder()
    records = [
        {"metric": "fd[pixels]", "value": 3.5, "n": 10, "floor": 0.25, "warning": "n = 10 is few"},
        {"metric": "nll", "value": 1.5, "standard_error": 0.125, "unit": "bits/dim", "images": 4},
        {"metric": "agreement[3nn]", "value": 0.5, "n": 10, "real": 0.75},
    ]
    monkeypatch.setattr(sys.modules["diffcli.engine.evaluate"], "evaluate", lambda *_: records)
    assert main(["eval", "toy"]) == 0
    out, err = capsys.readouterr()
    table = [line.split() for line in out.splitlines()[:-1]]
    assert table[0] == ["metric", "value", "error", "floor", "real", "n", "unit"]
    assert table[1:] == [
        ["fd[pixels]", "3.5", "0.25", "10"],
        ["nll", "1.5", "0.12", "4", "bits/dim"],
        ["agreement[3nn]", "0.5", "0.75", "10"],
    ]
    assert out.splitlines()[-1] == str(path / "evals.jsonl")
    assert err == f"warning: fd[pixels] of {path}: n = 10 is few\n"

    other = run_folder("mask")
    checkpoint = path / "checkpoints" / "step-00000100"
    meta = {"recipe": {"method": {"name": "toy"}}}
    (checkpoint / "manifest.json").write_text(json.dumps({"step": 100, "meta": meta}))
    assert main(["eval", "toy", str(other), str(checkpoint), "--json"]) == 0
    kept = [str(path / "evals.jsonl"), str(other / "evals.jsonl"), "compare/table.json"]
    assert capsys.readouterr().out.splitlines()[-4:-1] == kept


def test_resume_goes_on_with_the_recipe_of_the_run(
    toy: Path, engine: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = run_folder(train={"steps": 500, "lr": 0.5})
    for line in (["train", "toy", "--resume", "latest"], ["train", "--resume", str(path)]):
        engine.clear()
        assert main(line) == 0
        assert engine["train"].resume == path
        assert (engine["train"].recipe.train.steps, engine["train"].recipe.train.lr) == (500, 0.5)
    capsys.readouterr()
    assert main(["train", "mask", "--resume", str(path)]) == 2
    assert capsys.readouterr().err == f"error: --resume {path} is a run of toy, not of mask\n"
    assert main(["train", "toy", "--resume", "latest", "--output", "x"]) == 2


def test_the_header_of_a_resume_says_only_what_the_method_does_not(
    toy: Path, engine: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = run_folder(train={"steps": 500, "lr": 0.01}, sampler={"name": "toy-noisy"})
    assert "weight_decay" in (path / "recipe.toml").read_text()
    assert main(["train", "--resume", str(path), "--keep", "7"]) == 0
    err = capsys.readouterr().err
    assert "recipe   steps=500\n" in err
    assert "flag     keep=7\n" in err
    assert "sampler toy-noisy" in err


def test_colliding_flags_are_a_fault_of_the_plugins(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(sys.path[0], "toy_plugin.py")
    source.write_text(
        source.read_text().replace("    channels: int", "    shift: int = opt(1, 'S.')\n    channels: int")
    )
    assert main(["train", "toy"]) == 5
    err = capsys.readouterr().err
    assert (
        "--shift is brought by both method toy (toy_plugin of DIFFCLI_PLUGINS) and model toy-net (toy_plugin of DIFFCLI_PLUGINS)"
        in err
    )
    assert main(["sample", "toy", "--help"]) == 0


def test_no_flags_collide_in_any_combination_of_built_in_parts() -> None:
    found = Registry(sources("none"))
    shared = set(options(TrainOptions))
    for method in found.specs("method").values():
        kinds = [kind for kind in ("model", "schedule", "dataset") if kind in method.uses]
        fitted = [[part for part in found.specs(kind).values() if fits(kind, part, method)] for kind in kinds]
        for combination in itertools.product([method], *fitted):
            names = [name for part in combination for name in options(part.config)]
            assert len(set(names)) == len(names), [part.name for part in combination]
            assert not shared & set(names)
        fitted = [[part for part in found.specs(kind).values() if fits(kind, part, method)] for kind in EVAL_PANELS]
        for combination in itertools.product(*fitted):
            names = [name for part in combination for name in options(part.config)]
            names += options(method.eval or EvalOptions)
            assert len(set(names)) == len(names), [part.name for part in combination]


def test_recipes_are_listed_shown_and_copied(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = toy / "shipped" / "toy-data.toml"
    shipped.parent.mkdir()
    shipped.write_text('# Reaches the end.\n[method]\nname = "toy"\n')
    monkeypatch.setattr("diffcli.recipe.shipped", lambda: {"toy-data": shipped})
    assert main(["recipes"]) == 0
    assert "toy-data  Reaches the end." in capsys.readouterr().out
    assert main(["recipes", "show", "toy-data"]) == 0
    assert capsys.readouterr().out == shipped.read_text()
    assert main(["recipes", "cp", "toy-data"]) == 0
    assert read("toy-data.toml") == read(shipped)
    assert main(["recipes", "cp", "toy-data"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["train", "toy-data"]) == 2
    assert "write diffcli train --recipe toy-data" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("diffcli ", {"train", "sample", "plugins"}),
        ("diffcli train t", {"toy"}),
        ("diffcli sample toy --sampler toy-", {"toy-still", "toy-noisy"}),
        ("diffcli sample --eta", set()),
        ("diffcli sample toy --sampler toy-noisy --eta-", {"--eta-toy"}),
        ("diffcli train toy --prediction ", {"eps", "x0", "v"}),
        ("diffcli train toy --lr-sch", {"--lr-schedule"}),
    ],
)
def test_the_shell_completes_names_and_flags(
    toy: Path, python: Callable, monkeypatch: pytest.MonkeyPatch, line: str, expected: set[str]
) -> None:
    monkeypatch.setenv("_DIFFCLI_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    done = python(
        "-c", f"import sys; from diffcli.cli.app import main; main([]); sys.exit(bool({HEAVY} & set(sys.modules)))"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert expected <= set(done.stdout.split())
    assert expected or not done.stdout.strip()


def test_peek_reads_as_the_parser_will() -> None:
    args = ["--sampler", "a", "--x=1", "rf", "--sampler=b", "--", "--sampler=c"]
    assert peek(args, "--sampler") == "b"
    assert peek(["--sampler"], "--sampler") is None
    assert first_positional(args, ["--flag"]) == 3
    assert first_positional(["--flag", "rf"], ["--flag"]) == 1
    assert first_positional(["--value", "rf"], ["--flag"]) is None
    assert first_positional(["--flag", "--", "rf"], ["--flag"]) == 2
