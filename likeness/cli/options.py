"""What commands are made of: options with a panel in the help, and what was given for them."""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from likeness.model.sizes import shortened
from likeness.stopping import StopToken


class Options(SimpleNamespace):
    """What was typed for a command, by the names of its options."""


class Call(NamedTuple):
    """A command that was understood and not carried out yet.

    Attributes:
        handler: Given the options and a token that a signal sets; its exit code.
        options: What was typed.
    """

    handler: Callable[[Options, StopToken], int]
    options: Options


class FilePath(click.ParamType[Path]):
    """The path of a file or folder, whether or not it is there."""

    name = "path"

    def convert(
        self, value: Any, _param: click.Parameter | None, _ctx: click.Context | None
    ) -> Path:
        """As it was typed."""
        return Path(value)

    def shell_complete(
        self, _ctx: click.Context, _param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The shell itself knows what files there are."""
        return [CompletionItem(incomplete, type="file")]


class WholeNumber(click.ParamType[int]):
    """A whole number that is not negative, up to a largest one."""

    name = "number"

    def __init__(self, largest: int = 10**9 - 1, what: str = "number") -> None:
        """A number called by what it is."""
        self._largest, self._what = largest, what

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it, or refuse it in a sentence."""
        text = str(value)
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            self.fail(f"{shortened(text)} is no such {self._what}", param, ctx)
        if int(text) > self._largest:
            self.fail(f"{text} is no {self._what}; give one up to {self._largest}", param, ctx)
        return int(text)


_ENVIRONMENT = ParameterSource.ENVIRONMENT
PATH = FilePath()
NUMBER = WholeNumber()
PORT = WholeNumber(65535, "port")


class Option(click.Option):
    """An option that is shown under a heading, and may exclude others."""

    def __init__(self, *names: str, panel: str = "", instead_of: str = "", **facts: Any) -> None:
        """Make it.

        Args:
            names: Such as `--key-file`.
            panel: The heading that it is shown under.
            instead_of: One word that those options share of which only one may be given.
            facts: What click is told.
        """
        super().__init__(names, **facts)
        self.panel, self.instead_of = panel, instead_of


class Formatter(click.HelpFormatter):
    """Help that begins as that of other programs does."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """One line."""
        super().write_usage(prog, args, prefix or "usage: ")


class Context(click.Context):
    """What a command line was understood as so far."""

    formatter_class = Formatter


class Command(click.Command):
    """A verb; carried out by whoever was given its `Call`."""

    context_class = Context

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Each panel by itself."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                panels.setdefault(getattr(parameter, "panel", "") or "options", []).append(record)
        for panel, records in panels.items():
            with formatter.section(panel):
                formatter.write_dl(records)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Understand it, and refuse options of which one excludes the other."""
        rest = super().parse_args(ctx, args)
        typed: dict[str, list[Option]] = {}
        alike = [each for each in self.params if isinstance(each, Option) and each.instead_of]
        for each in alike:
            if ctx.get_parameter_source(each.name or "") is ParameterSource.COMMANDLINE:
                typed.setdefault(each.instead_of, []).append(each)
        for given in typed.values():
            if len(given) > 1:
                names = " and ".join(each.opts[0] for each in given)
                raise click.UsageError(f"{names} exclude each other; give one of them", ctx)
        for each in alike:  # what is typed takes the place of what the environment says
            by_environment = ctx.get_parameter_source(each.name or "") is _ENVIRONMENT
            if by_environment and typed.get(each.instead_of):
                ctx.params[each.name or ""] = None
        return rest


def verb(
    name: str,
    what: str,
    handler: Callable[[Options, StopToken], int],
    parameters: Sequence[click.Parameter],
) -> Command:
    """A command that does one thing.

    Args:
        name: What is typed.
        what: One sentence for the help.
        handler: What carries it out.
        parameters: Its options and arguments, in the order of the help.
    """
    return Command(
        name,
        params=list(parameters),
        callback=lambda **given: Call(handler, Options(**given)),
        help=what,
        short_help=f"{what.partition('. ')[0].rstrip('.')}.",
    )


class Later(NamedTuple):
    """A command that is imported when it is typed: it brings Prefect with it.

    Attributes:
        module: Where it is.
        attribute: What it is called there.
        what: One sentence for the list of commands.
    """

    module: str
    attribute: str
    what: str

    def command(self) -> click.Command:
        """Import it."""
        found: click.Command = getattr(importlib.import_module(self.module), self.attribute)
        return found


class Verbs(click.Group):
    """All commands; those that need an installation are imported when they are typed."""

    context_class = Context

    def __init__(self, later: dict[str, Later], **facts: Any) -> None:
        """Of those that are there and those to come."""
        super().__init__(**facts)
        self.later = later

    def list_commands(self, ctx: click.Context) -> list[str]:
        """What can be typed."""
        return [*self.later, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The one of this name."""
        if cmd_name in self.later:
            return self.later[cmd_name].command()
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """A line for each; nothing is imported for it."""
        if self.later:
            with formatter.section("with an installation (a Prefect server and its blocks)"):
                formatter.write_dl([(name, each.what) for name, each in self.later.items()])
        with formatter.section("with a data store and a key alone"):
            formatter.write_dl(
                [(name, each.get_short_help_str(200)) for name, each in self.commands.items()]
            )
