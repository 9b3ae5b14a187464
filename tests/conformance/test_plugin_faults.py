"""A fault of a plugin as a whole is found by the law that it breaks, and by no other but what follows from it."""

from __future__ import annotations

import pytest

from faults import Fault

pytestmark = pytest.mark.slow  # a proof of many trials

P = "sound_plugin"
OPTIONS = "@dataclass(frozen=True, kw_only=True)\nclass NetOptions"
WIDTH = '    width: int = opt(8, "Features of the hidden layer.", min=1)'
EYE = '    yield Spec(name="sound-eye"'
MODELS = "@hookimpl\ndef diffcli_models"
TOP = "from typing import Literal\n"
FAULTS = {
    "torch at the top": Fault(P, ("neither torch",), "it imports torch; import it in the modules that targets name", TOP, f"import torch\n{TOP}"),
    "prints at import": Fault(P, ("prints nothing",), "it prints 'hello'", TOP, f"{TOP}print('hello')\n"),
    "draws at import": Fault(P, ("does not move the global",), "it moves that of random", TOP, f"{TOP}import random\nrandom.random()\n"),
    "fails at import": Fault(P, ("can be imported",), "No module named 'does_not_exist'", TOP, f"{TOP}import does_not_exist\n"),
    "exits at import": Fault(P, ("can be imported",), "it called exit(3) when imported", TOP, f"{TOP}raise SystemExit(3)\n"),
    "another version": Fault(P, ("this version",), "DIFFCLI_API is 99; this is version 1", TOP, f"{TOP}DIFFCLI_API = 99\n"),
    "unknown hook": Fault(P, ("hooks that exist",), "there is no hook diffcli_modls; did you mean diffcli_models?", "def diffcli_models", "def diffcli_modls"),
    "hook not marked": Fault(P, ("hooks that exist",), "diffcli_models is not marked with @hookimpl", MODELS, "def diffcli_models"),
    "hook fails": Fault(P, ("hooks give specs",), "ZeroDivisionError: division by zero (at sound_plugin.py", EYE, f"    1 / 0\n{EYE}"),
    "wrong name": Fault(P, ("hooks give specs",), "name must be small letters", 'name="sound-eye"', 'name="Sound Eye"'),
    "name of another": Fault(P, ("no other plugin",), "model unet is already brought by vision of diffcli", 'Spec(name="sound-net"', 'Spec(name="unet"'),
    "summary of two lines": Fault(P, ("a summary is one line",), "that of model sound-net is 'Two", "Two layers.", "Two\\nlayers."),
    "field without help": Fault(P, ("frozen dataclasses",), "NetOptions.width has no help; write opt(default, help)", WIDTH, "    width: int = 8"),
    "config not frozen": Fault(P, ("frozen dataclasses",), "is not frozen", OPTIONS, "@dataclass\nclass NetOptions"),
    "default out of bounds": Fault(P, ("frozen dataclasses",), "its default is '0', but takes a whole number, 1 or more", "opt(8,", "opt(0,"),
    "config that fails": Fault(P, ("frozen dataclasses", "make a recipe", "--help", *3 * ("made from its defaults",)), "ZeroDivisionError", WIDTH, f"{WIDTH}\n\n    def __post_init__(self):\n        1 / 0"),
    "help in small letters": Fault(P, ("help of an option",), "that of --width is 'features of", "Features of", "features of"),
    "help without a stop": Fault(P, ("help of an option",), "that of --width is", "hidden layer.", "hidden layer"),
    "flag of diffcli": Fault(P, ("no option is called",), "model sound-net: --steps is already a flag of diffcli", "    width: int", "    steps: int"),
    "flag of two parts": Fault(P, ("no option is called", "--help"), "--weight is brought by both", WIDTH, f"{WIDTH}\n    weight: float = opt(1.0, 'Factor of the output.')"),
    "target that is not there": Fault(P, ("import string", "made from its defaults"), "extractor sound-eye: sound_parts:Ear cannot be loaded", "sound_parts:Eye", "sound_parts:Ear"),
    "module that is not there": Fault(P, ("import string", "made from its defaults"), "No module named 'sound_part'", "sound_parts:Eye", "sound_part:Eye"),
    "part that is not there": Fault(P, ("every default part", "make a recipe", "--help", *2 * ("made from its defaults",)), "method sound-flow uses model sound-nets, which no working plugin brings", 'Use(name="sound-net")', 'Use(name="sound-nets")'),
    "sampler of another family": Fault(P, ("every default part", "make a recipe", "--help", *2 * ("made from its defaults",)), "method sound-flow is gaussian, but its sampler sound-reveal is masked", 'Use(name="sound-solver")', 'Use(name="sound-reveal")'),
    "options of no part": Fault(P, ("every default part", "make a recipe", "--help", *2 * ("made from its defaults",)), "[model] widht is unknown; did you mean width?", 'Use(name="sound-net")', 'Use(name="sound-net", options={"widht": 4})'),
    "goes better with nothing": Fault(P, ("every default part",), "dataset sound-data uses model sound-nets", 'summary="Bright and dark pictures."', 'summary="Bright and dark pictures.", uses={"model": Use(name="sound-nets")}'),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_plugin(install, fault):
    FAULTS[fault].hold(install)
