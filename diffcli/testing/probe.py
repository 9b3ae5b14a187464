"""Run in a process of its own: imports a plugin, calls its hooks, and says what that did. Prints one line of JSON to stderr."""

import contextlib
import importlib
import io
import json
import random
import sys

import numpy as np


def state() -> list[str]:
    """The global streams of random numbers, as texts."""
    numbers = np.random.get_state(legacy=False)
    return [
        repr(random.getstate()),
        repr([part.tolist() if hasattr(part, "tolist") else part for part in numbers["state"].values()]),
    ]


def probe(name: str) -> dict[str, object]:
    """What importing a module and calling its hooks does."""
    random.seed(0)
    np.random.seed(0)
    before, out, error = state(), io.StringIO(), ""
    with contextlib.redirect_stdout(out):
        try:
            module = importlib.import_module(name)
            for hook in [
                value for key, value in vars(module).items() if key.startswith("diffcli_") and callable(value)
            ]:
                list(hook())
        except BaseException as raised:  # what is raised is told by another law
            error = f"{type(raised).__name__}: {raised}"
    return {
        "heavy": [heavy for heavy in ("torch", "matplotlib") if heavy in sys.modules],
        "printed": out.getvalue()[:200],
        "moved": [name for name, a, b in zip(("random", "numpy.random"), before, state(), strict=True) if a != b],
        "error": error,
    }


if __name__ == "__main__":
    print("\n" + json.dumps(probe(sys.argv[1])), file=sys.stderr)
