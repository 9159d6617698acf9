"""The command that makes a shell complete what is typed."""

import click
from click.shell_completion import get_completion_class

from likeness.cli.options import Options, verb
from likeness.cli.terminal import say
from likeness.stopping import StopToken

VARIABLE = "_LIKENESS_COMPLETE"
"""Set by the script while it asks; then this command only answers what could be typed."""


def complete(options: Options, _stop: StopToken) -> int:
    """Print the script that a shell reads at its start."""
    kind = get_completion_class(options.shell)
    if kind is None:
        raise AssertionError(options.shell)
    say(kind(click.Group("likeness"), {}, "likeness", VARIABLE).source())
    return 0


COMMAND = verb(
    "completion",
    "Print what a shell needs to complete commands and options:"
    ' eval "$(likeness completion bash)" in ~/.bashrc.',
    complete,
    [click.Argument(["shell"], type=click.Choice(["bash", "zsh", "fish"]))],
)
