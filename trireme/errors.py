"""What can go wrong with the embedded stack.

TriremeError
├── SettingsError     settings are wrong; all of them are named
├── PortBusyError     somebody else listens on a port that the stack needs
├── AlreadyRunning    another process runs the stack in this state directory
└── StartError        a part did not come up
Interrupted           the user asked to stop (no error: nothing is to be reported)
"""

from __future__ import annotations


class TriremeError(Exception):
    """The message is one or more whole sentences for the user; the command line prints it and exits with 1."""


def as_sentence(clause: str) -> str:
    """What the gateway and the control plane say of a refusal, for the terminal."""
    return f"{clause[:1].upper()}{clause[1:]}."


class SettingsError(TriremeError):
    """One or more settings are wrong; `problems` holds a sentence for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class PortBusyError(TriremeError):
    """A port is taken."""


class AlreadyRunning(TriremeError):  # noqa: N818 - says what is, not what failed
    """The state directory is in use."""


class StartError(TriremeError):
    """A part of the stack did not become ready; the message ends with the last lines of its log."""


class Interrupted(Exception):  # noqa: N818 - the normal end of a run
    """SIGINT or SIGTERM came while something was under way."""
