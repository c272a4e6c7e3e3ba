"""The command line: arguments in, one call, result out.

Tables go to standard output, everything else to standard error. Exit status 0 means
done, 2 that the user can mend it, with one line that says how, and 130 Ctrl-C.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from typing import Final

import click

from exfilml import __version__
from exfilml.cli._assess import blindspots, drift, evaluate, inspect
from exfilml.cli._carve import carve
from exfilml.cli._decrypt import decrypt
from exfilml.cli._doctor import doctor
from exfilml.cli._extract import flows, sources
from exfilml.cli._feedback import feedback
from exfilml.cli._handover import handover
from exfilml.cli._history import history
from exfilml.cli._output import drop_stdout, say, say_error, show_warning
from exfilml.cli._rank import rank
from exfilml.cli._train import train
from exfilml.cli._triage import triage
from exfilml.exceptions import ExfilmlError, ExfilmlWarning

__all__ = ["app", "main", "run"]

EXIT_USER: Final = 2
EXIT_INTERRUPTED: Final = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="exfilml")
def app() -> None:
    """Find data theft over an alternative protocol (MITRE ATT&CK T1048.001)."""


for _command in (
    flows,
    sources,
    train,
    rank,
    triage,
    handover,
    carve,
    decrypt,
    evaluate,
    blindspots,
    drift,
    history,
    inspect,
    feedback,
    doctor,
):
    app.add_command(_command)

_interrupts: list[int] = []


def _interrupt(number: int, _frame: object) -> None:
    _interrupts.append(number)
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line and exit."""
    signal.signal(signal.SIGINT, _interrupt)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:  # noqa: PLR0911 - one for each way to end
    """Run the command line and return its exit status.

    Parameters
    ----------
    arguments
        What follows the program's name.
    """
    warnings.simplefilter("always", ExfilmlWarning)
    warnings.showwarning = show_warning
    try:
        status = app.main(
            arguments,
            prog_name="exfilml",
            standalone_mode=False,
            # https://no-color.org; None leaves it to whether it is a terminal.
            color=False if os.environ.get("NO_COLOR") else None,
        )
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ExfilmlError as error:
        say_error(str(error))
        return EXIT_USER
    except (KeyboardInterrupt, click.Abort):
        say("interrupted; nothing was written")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (`head`, a closed pager) has seen enough.
        drop_stdout()
        return 0
    except OSError as error:
        drop_stdout()
        say_error(f"the output cannot be written: {error.strerror or error}.")
        return EXIT_USER
    except Exception:
        # An import that Ctrl-C broke off may report that as an error of its own.
        if _interrupts:
            say("interrupted; nothing was written")
            return EXIT_INTERRUPTED
        raise
    return status if isinstance(status, int) else 0
