"""The program: the group of all commands, each imported when it is asked for, and the end of every error."""

from __future__ import annotations

import errno
import os
import sys
import time
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from diffcli import __version__
from diffcli.cli.flags import HELP, Group, line
from diffcli.cli.several import given
from diffcli.engine.launch import worker
from diffcli.errors import CheckFailed, DiffcliError, PluginError, Stopped, UsageError, show
from diffcli.options import nearest

COMMANDS = {  # name: (panel, help); each stands in diffcli.cli.<name>
    "train": ("Models", "Train a method, from its defaults or from a recipe."),
    "sample": ("Models", "Draw images or texts from a trained model."),
    "eval": ("Models", "Measure trained models, and compare them."),
    "repro": ("Models", "Hold a recipe to the number it claims."),
    "export": ("Models", "Write a run as a model folder."),
    "bench": ("Models", "Measure samplers, training steps and attention."),
    "plugins": ("Installed", "List, explain, check and start plugins."),
    "recipes": ("Installed", "List, show and copy the recipes that come with diffcli."),
    "data": ("Installed", "List the data sets, and check that one can be read here."),
    "doctor": ("Installed", "Say what this machine offers and what is wrong with it, or with a run."),
}
ENVIRONMENT, BUG, INTERRUPTED, PIPE_CLOSED = 6, 70, 130, 141
OUT_OF_MEMORY = ("can't allocate memory", "out of memory")  # torch says so in a RuntimeError, on a CPU and on CUDA


class Root(Group):
    """diffcli."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        panel, help = COMMANDS[cmd_name]
        return line(cmd_name, help, panel)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name in COMMANDS:
            return name, import_module(f"diffcli.cli.{name}").build(), args[1:]
        if ctx.resilient_parsing:
            return None, None, args[1:]
        raise UsageError(
            f"there is no command '{show(name, 80)}'{nearest(name, COMMANDS, '; there are: ' + ', '.join(COMMANDS))}"
        )


def version(value: bool) -> None:
    """--version."""
    if value:
        print(f"diffcli {__version__}")
        raise typer.Exit()


Version = Annotated[
    bool,
    typer.Option(
        "--version", metavar="", help="Print the version.", callback=version, is_eager=True, show_default=False
    ),
]


def program() -> TyperGroup:
    """The root group, with shell completion."""
    app = typer.Typer(
        name="diffcli",
        cls=Root,
        help="Train, sample, evaluate and benchmark diffusion models from plugins.",
        rich_markup_mode="rich",
        context_settings=HELP,
    )

    @app.callback()
    def root(version: Version = False) -> None: ...

    made = typer.main.get_command(app)
    assert isinstance(made, TyperGroup)
    for switch in made.params:
        switch.default, switch.metavar = False, ""  # None would make typer import pydantic to read it
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code. No exception leaves it."""
    args = list(sys.argv[1:] if argv is None else argv)
    given.set(args)
    reopen()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a path in any encoding can be printed as it is
            stream.reconfigure(errors="surrogateescape" if stream is sys.stdout else "backslashreplace")
    try:
        code = program().main(args=args or ["--help"], prog_name="diffcli", standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except BaseException as error:
        code, line = verdict(error)
        if "--debug" in args and not isinstance(error, SystemExit | CheckFailed):  # nothing went wrong in these
            traceback.print_exception(error)
        elif line and (code == BUG or (code == PluginError.code and not isinstance(error, DiffcliError))):
            line += f" ({crash(error, args)})"
        return finish(code, line)


def reopen() -> None:
    """Put /dev/null where the shell closed a stream: a file of ours would get its number, and what a library prints."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "r" if number == 0 else "w", encoding="utf-8"))


def run() -> None:
    """The console script. A process that is one of several ends at once: nothing that still waits can hold it up."""
    code = main()
    if worker():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def verdict(error: BaseException) -> tuple[int, str]:
    """The exit code of an error, and its line; empty where nothing is to be said."""
    if isinstance(error, SystemExit) and isinstance(error.__context__, OSError):
        error = error.__context__  # typer turns a closed pipe into an exit
    if isinstance(error, Stopped):
        return error.code, show(error, 2000)
    if isinstance(error, DiffcliError):
        return error.code, f"error: {show(error, 2000)}"
    if hasattr(error, "format_message"):  # a usage error of typer's parser
        return UsageError.code, f"error: {show(usage(error), 2000)}"
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return INTERRUPTED, "error: interrupted"
    if isinstance(error, SystemExit):
        return (error.code if isinstance(error.code, int) else int(error.code is not None)), ""
    if isinstance(error, BrokenPipeError):
        return PIPE_CLOSED, ""
    if isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
        return ENVIRONMENT, "error: out of memory; take a smaller --batch-size, or a smaller network"
    if isinstance(error, OSError) and error.errno is not None:
        what = f"{show(error.filename)}: " if error.filename is not None else ""
        todo = {
            errno.ENOSPC: "; make room, or choose a folder on another disk",
            errno.EDQUOT: "; make room, or choose a folder on another disk",
            errno.EACCES: "; choose a folder that is yours",
            errno.EPERM: "; choose a folder that is yours",
            errno.EROFS: "; choose a folder that can be written to",
        }.get(error.errno, "")
        return ENVIRONMENT, f"error: {what}{(error.strerror or os.strerror(error.errno)).lower()}{todo}"
    what = f"error: {type(error).__name__}: {show(error)}"
    from diffcli.cli.blame import blamed

    if where := blamed(error):
        return PluginError.code, f"{what} (in {show(where)}); mend the plugin, or tell its author"
    return BUG, f"{what}; this is a bug of diffcli or of a plugin, please report it"


def usage(error: Any) -> str:
    """A usage error of the parser, in our words."""
    context = getattr(error, "ctx", None)
    if type(error).__name__.startswith("NoSuchOption"):
        command = context.command if context else None
        known = [opt for param in command.params for opt in (*param.opts, *param.secondary_opts)] if command else []
        path = context.command_path if context else "diffcli"
        return f"{path} has no option {error.option_name}{nearest(error.option_name, known, f'; see {path} --help')}"
    message = " ".join(str(error.format_message()).split()).rstrip(".")
    message = message.replace(": Value error, ", ": ", 1)  # pydantic's words
    if "extra argument" in message and context and any("--input" in param.opts for param in context.command.params):
        message += "; --input takes one text: files with commas between them, or a quoted pattern such as '*.png'"
    return f"{message[:1].lower()}{message[1:]}" + (f"; see {context.command_path} --help" if context else "")


def crash(error: BaseException, args: Sequence[str]) -> str:
    """Where the traceback was written."""
    import tempfile

    try:
        descriptor, path = tempfile.mkstemp(prefix=time.strftime("crash-%Y%m%d-%H%M%S-"), suffix=".log")
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"diffcli {__version__}, Python {sys.version}\n{list(args)}\n\n")
            file.writelines(traceback.format_exception(error))
        return f"traceback in {path}"
    except OSError:
        return "its traceback could not be written; see it with --debug"


def finish(code: int, line: str) -> int:
    """Say the line, and leave nothing in a pipe that nobody reads."""
    try:
        if line:
            print(line, file=sys.stderr, flush=True)
        sys.stdout.flush()
    except BrokenPipeError:
        code = PIPE_CLOSED if not line else code
        # what is still buffered would raise again when Python exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        pass
    return code
