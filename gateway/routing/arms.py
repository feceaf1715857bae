"""Which arm of a model serves a caller: by weight, and the same one each time."""

from collections.abc import Sequence
from hashlib import sha256
from math import log

from gateway.core.call import Call
from gateway.core.snapshot import Arm, Division, ModelRoute, Unit

_SPACE = 1 << 64
_UNIT_DIGITS = 8


def arms_of(call: Call, route: ModelRoute) -> Sequence[Arm]:
    """The call's arm, then those that stand in for it. Without an experiment a session keeps its arm."""
    division = route.division
    if division is None:
        return arms_for(route.name, route.arms, _unit(call, "session"))
    return arms_for(division.experiment, route.arms, _unit(call, division.by))


def arms_for(salt: str, arms: Sequence[Arm], sticky: str) -> Sequence[Arm]:
    """The caller's arm, then those that stand in for it when it has no backend, by weight too.

    An arm without weight gets nobody. `sticky`: whoever must get the same arm again; with another `salt`, the model's
    name or an experiment's id, they are divided anew.

    Weighted rendezvous hashing: each arm draws, by a hash, from the exponential distribution that has its weight as its
    rate, and the least is first with a probability in proportion to that. So a weight that grows draws callers to that
    arm, and moves nobody between others.
    """
    if len(arms) == 1:
        return arms
    return sorted((arm for arm in arms if arm.weight), key=lambda arm: _drawn(salt, sticky, arm))


def note_experiment(call: Call, division: Division) -> None:
    """The call counts, for its unit. Not where another arm stands in: that says nothing of the unit's own."""
    call.experiment = division.experiment
    unit = f"{division.experiment}\0{_unit(call, division.by)}"
    call.unit = sha256(unit.encode()).hexdigest()[:_UNIT_DIGITS]


def owner_of(call: Call) -> str:
    """Whose call it is: a session of a tenant, the tenant, or nobody's but its own."""
    tenant = _tenant(call)
    return tenant if call.session is None else f"{tenant}\0{call.session}"


def _unit(call: Call, by: Unit) -> str:
    """Calls that name no session or user are divided one by one, or the arms would differ as tenants do."""
    if by == "tenant":
        return _tenant(call)
    named = call.user if by == "user" else call.session
    return call.uid if named is None else f"{_tenant(call)}\0{named}"


def _tenant(call: Call) -> str:
    return call.caller.tenant if call.caller is not None else call.uid


def _drawn(salt: str, sticky: str, arm: Arm) -> float:
    digest = sha256(f"{salt}\0{sticky}\0{arm.name}".encode()).digest()
    share = (int.from_bytes(digest[:8], "big") + 1) / _SPACE
    return -log(share) / arm.weight
