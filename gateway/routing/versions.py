"""Which version of a model answers: what an arm names, or what the backends were seen to serve."""

from collections.abc import Iterable, Mapping, Sequence

from gateway.core.snapshot import Arm

# Of each Triton model, those that are ready. Empty: the backend did not tell.
Served = Mapping[str, Sequence[str]]


def serves(served: Served, arm: Arm) -> bool:
    """Whether a backend has what the arm names. One that does not tell is believed to."""
    if not served:
        return True
    ready = served.get(arm.triton_model, ())
    return bool(ready) if arm.version is None else arm.version in ready


def version_at(served: Served, arm: Arm) -> str | None:
    """That which answers there: without a version, Triton takes the highest. None: the backend did not tell."""
    if arm.version is not None:
        return arm.version
    return max(served.get(arm.triton_model, ()), key=int, default=None)


def default_version(served: Served) -> str | None:
    """What answers clients of Triton that name no version, if the backend tells."""
    return max(served.get("chat", ()), key=int, default=None)


def common_version(backends: Iterable[Served], arm: Arm) -> str | None:
    """The one that answers, whichever of these backends is chosen. None: they differ, or did not tell."""
    found = {version_at(served, arm) for served in backends}
    return found.pop() if len(found) == 1 else None


def in_order(versions: Iterable[str]) -> list[str]:
    """Each once, the oldest first."""
    return sorted(set(versions), key=int)
