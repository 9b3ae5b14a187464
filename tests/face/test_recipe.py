"""Recipes: TOML, plain tables and Recipe say the same; anything else is refused."""

from __future__ import annotations

import json
import os
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from diffcli import parts, recipe
from diffcli.errors import PluginError, UsageError
from diffcli.recipe import dumps, overlay, read, resolve
from diffcli.registry import registry

FULL: dict[str, dict[str, Any]] = {
    "method": {"name": "toy", "prediction": "v", "levels": [1, 2, 4], "shift": 0.5, "extra": True, "notes": "a/b.txt"},
    "model": {"name": "toy-net", "channels": 32},
    "schedule": {"name": "toy-line"},
    "dataset": {"name": "toy-data"},
    "sampler": {"name": "toy-noisy", "eta_toy": 0.25},
    "train": {"epochs": 3, "lr": 1e-4},
    "sample": {"samples": 9, "label": "0,1", "guidance_interval": [0.2, 0.8]},
    "claim": {"metric": "fd[pixels]", "value": 3.5},
}


def test_toml_and_json_round_trips_are_identities(toy: Path) -> None:
    for tables in (FULL, {"method": {"name": "toy"}}, {"method": {"name": "mask"}}, {"method": {"name": "plain"}}):
        made = resolve(tables)
        assert resolve(tomllib.loads(dumps(made))) == made
        assert resolve(json.loads(json.dumps(made.tables()))) == made
        assert resolve(made.tables()).tables() == made.tables()


def test_a_file_reads_back_as_it_was_written(toy: Path) -> None:
    made = resolve(FULL)
    Path("full.toml").write_text(dumps(made))
    assert resolve(read("full.toml")) == made


def test_the_methods_defaults_lie_under_what_is_given(toy: Path) -> None:
    made = resolve({"method": {"name": "toy"}, "train": {"lr": 1}})
    assert (made.train.steps, made.train.lr, made.train.batch_size) == (100, 1.0, 128)
    assert made.parts["model"].config.channels == 16
    assert made.sample.clip == 0.0


def test_another_part_drops_the_methods_options_for_its_own(toy: Path) -> None:
    made = resolve({"method": {"name": "toy"}, "model": {"name": "toy-other"}})
    assert made.tables()["model"] == {"name": "toy-other"}


def test_one_length_replaces_another_and_two_are_refused(toy: Path) -> None:
    made = resolve({"method": {"name": "toy"}, "train": {"epochs": 2}})
    assert (made.train.steps, made.train.epochs) == (None, 2.0)
    with pytest.raises(UsageError, match="steps and budget are two ways to say one length"):
        resolve({"method": {"name": "toy"}, "train": {"steps": 2, "budget": "1m"}})


def test_overlay_drops_what_belongs_to_another_choice() -> None:
    below = {"sampler": {"name": "a", "eta": 1}, "train": {"steps": 5, "lr": 1}}
    assert overlay(below, {"sampler": {"name": "b"}})["sampler"] == {"name": "b"}
    assert overlay(below, {"sampler": {"name": "a", "rho": 2}})["sampler"] == {"name": "a", "eta": 1, "rho": 2}
    assert overlay(below, {"sampler": {"rho": 2}})["sampler"] == {"name": "a", "eta": 1, "rho": 2}
    assert overlay(below, {"train": {"epochs": 2}})["train"] == {"lr": 1, "epochs": 2}
    assert below["train"] == {"steps": 5, "lr": 1}


def test_another_sampler_drops_the_steps_of_the_one_before() -> None:
    drawn = {"steps": 50, "spacing": "karras", "seed": 3}
    below = {"sampler": {"name": "ddim"}, "sample": drawn}
    for over in ({"sampler": {"name": "ddim", "eta": 1.0}}, {"sampler": {"eta": 1.0}}, {"sample": {"seed": 3}}):
        assert overlay(below, over)["sample"] == drawn
    assert overlay(below, {"sampler": {"name": "ancestral"}})["sample"] == {"seed": 3}
    for over in (
        {"sampler": {"name": "heun"}, "sample": {"steps": 9}},
        {"sample": {"steps": 9}, "sampler": {"name": "heun"}},
    ):
        assert overlay(below, over)["sample"] == {"seed": 3, "steps": 9}
    assert overlay({"sampler": {"name": "ddim"}}, {"sampler": {"name": "heun"}})["sampler"] == {"name": "heun"}
    assert drawn == {"steps": 50, "spacing": "karras", "seed": 3}


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"method": {"name": "toy", "time_samplng": 1}}, r"recipe key \[method\] time_samplng is unknown; did you mean time_sampling\?"),
        ({"method": {"name": "toy"}, "trian": {}}, r"recipe section \[trian\] is unknown; did you mean train\?"),
        ({"method": {"name": "tpy"}}, "no method named 'tpy'; did you mean 'toy'"),
        ({"method": {"name": 3}}, r"\[method\] name is 3, but takes a text"),
        ({"method": {}}, "names no method"),
        ({}, "names no method"),
        ({"method": "toy"}, "stands outside a section"),
        ({"method": {"name": "plain"}, "schedule": {"name": "toy-line"}}, "plain takes no schedule"),
        ({"method": {"name": "toy"}, "train": {"batch_size": True}}, r"\[train\] batch_size is 'true', but takes a whole number"),
        ({"method": {"name": "toy"}, "model": {"name": "toy-net", "channels": 1}}, r"\[model\] channels is '1', but takes a whole number from 2 to 64"),
    ],
)  # fmt: skip
def test_resolve_is_strict(toy: Path, tables: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(tables)


def test_a_default_part_that_is_missing_is_a_fault_of_the_plugin(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(registry().specs("model"), "toy-net")
    with pytest.raises(PluginError, match="toy needs model toy-net, which no working plugin brings"):
        resolve({"method": {"name": "toy"}})
    assert resolve({"method": {"name": "toy"}, "model": {"name": "toy-other"}}).parts["model"].name == "toy-other"


def test_parts_of_two_families_are_refused_with_those_that_fit(toy: Path) -> None:
    with pytest.raises(UsageError) as caught:
        resolve({"method": {"name": "mask"}, "sampler": {"name": "toy-still"}})
    assert "toy-still samples gaussian processes, but mask is masked; use one of: " in str(caught.value)
    assert "toy-reveal" in str(caught.value)
    assert "toy-noisy" not in str(caught.value)
    with pytest.raises(UsageError, match="toy-mask is a masked schedule, but toy is gaussian"):
        resolve({"method": {"name": "toy"}, "schedule": {"name": "toy-mask"}})


def test_eps_prediction_needs_a_schedule_with_some_signal_left(toy: Path) -> None:
    made = resolve({"method": {"name": "toy", "prediction": "eps"}, "schedule": {"name": "toy-zero"}})
    with pytest.raises(UsageError, match=r"\(toy-zero at t = 1\); use --prediction x0 or v"):
        parts.readable(made.parts)
    parts.readable(resolve({"method": {"name": "toy", "prediction": "v"}, "schedule": {"name": "toy-zero"}}).parts)
    parts.readable(resolve({"method": {"name": "plain"}}).parts)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"x = [", "is no TOML"),
        (b"lr = 1", "key lr stands outside a section"),
        (b"[train]\nlr = 1\nlr = 2", "is no TOML"),
        (b"\xff\xfe", "is no UTF-8"),
        (b"#" * 70_000, "larger than 64 KiB"),
        (b"a" + b".a" * 20_000 + b" = 1", "more than 16 dots"),
        (b"[a" + b' . "b"' * 17 + b"]", "more than 16 dots"),
        (b"[a]\nb = { c" + b".c" * 17 + b" = 1 }", "more than 16 dots"),
        (b"[a]\nb = " + b"[" * 30_000, "is no TOML"),
        (b"[a]\nb = " + b"9" * 5000, "is no TOML"),
        (b"a = 1979-13-45", "is no TOML"),
        (b"a" * 60_000, "is no TOML"),
        (b'"' * 60_000, "is no TOML"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_fast(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(data)
    began = time.process_time()
    with pytest.raises(UsageError, match=message):
        read(path)
    assert time.process_time() - began < 1


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(UsageError, match=r"is no regular file|cannot be read"):
            read(path)
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read(tmp_path / "nothing.toml")


def test_sixteen_dots_a_byte_order_mark_and_windows_lines_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(b"\xef\xbb\xbf[train]\r\nlr = 1.5\r\n[a" + b".a" * 16 + b"]\r\n")
    assert read(path)["train"] == {"lr": 1.5}


def test_shipped_recipes_resolve_and_say_what_they_reach() -> None:
    for name, path in recipe.shipped().items():
        made = resolve(read(path))
        assert name.startswith(f"{made.method.name}-"), name
        assert path.read_text().startswith("# "), name


@pytest.mark.parametrize("method", ["iddpm", "ldm"])
def test_a_table_shorter_than_the_methods_own_steps_is_walked_whole(method: str) -> None:
    for entries, steps, want in ((50, None, 50), (1000, None, 100), (50, 100, 100)):
        asked = {} if steps is None else {"sample": {"steps": steps}}  # as given: sampling refuses more than there are
        made = resolve({"method": {"name": method}, "schedule": {"timesteps": entries}, **asked})
        assert made.sample.steps == want
        assert resolve(made.tables()) == made


def test_an_unknown_recipe_has_a_near_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "shipped", lambda: {"rf-mnist": tmp_path / "rf-mnist.toml"})
    with pytest.raises(
        UsageError, match=r"'rf-minst' \(a file is a path that ends in .toml\); did you mean rf-mnist\?$"
    ):
        recipe.named("rf-minst")
    assert recipe.locate("rf-mnist") == tmp_path / "rf-mnist.toml"
    assert recipe.locate("other.toml") == Path("other.toml")
