"""How many examples a property gets that costs more than the rest: mounts, processes, threads."""

from __future__ import annotations

from hypothesis import settings

#: Hypothesis's own number, which the profile of `./dev fuzz` raises.
_USUAL = 100
_LONGER = 20


def examples(usual: int) -> int:
    """`usual`, and twenty times as many when `./dev fuzz` runs."""
    return usual if settings().max_examples <= _USUAL else usual * _LONGER
