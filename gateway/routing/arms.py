"""Which arm of a model serves a caller: by weight, and the same one each time."""

from collections.abc import Sequence
from hashlib import sha256

from gateway.core.snapshot import Arm

_SPACE = 1 << 64


def arms_for(model: str, arms: Sequence[Arm], sticky: str) -> Sequence[Arm]:
    """The caller's arm, then those that stand in for it when it has no backend, the heaviest first.

    An arm without weight gets nobody. `sticky`: whoever must get the same arm again.
    """
    if len(arms) == 1:
        return arms
    weighted = [arm for arm in arms if arm.weight]
    digest = sha256(f"{model}\0{sticky}".encode()).digest()
    point = int.from_bytes(digest[:8], "big") * sum(arm.weight for arm in weighted) // _SPACE
    for chosen in weighted:
        point -= chosen.weight
        if point < 0:
            break
    rest = sorted((arm for arm in weighted if arm is not chosen), key=lambda arm: -arm.weight)
    return [chosen, *rest]
