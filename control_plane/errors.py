# ruff: noqa: N818 - each name is read as an answer: "not possible", "nobody there"
"""What can go wrong with a rollout or an experiment.

ControlError
├── NotFound       there is nothing of that name
├── NotPossible    not now, or not with this model: the message says why
└── Raced          somebody else changed it at the same moment; again is safe
"""


class ControlError(Exception):
    """The message is a clause for whoever asked, without a full stop."""


class NotFound(ControlError):
    """There is nothing of that name."""


class NotPossible(ControlError):
    """It contradicts what there is."""


class Raced(ControlError):
    """Nothing was changed."""
