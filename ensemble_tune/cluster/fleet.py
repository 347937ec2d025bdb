"""What a cluster file would start: groups of machines, and what an hour of all of them costs at most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Machines that are alike."""

    name: str
    machine: str
    """Its size in the provider's words, for example g6.xlarge."""
    least: int
    """How many are always up."""
    most: int
    """How many may be up."""
    cpus: float | None = None
    """Of one machine; None where Ray finds out."""
    gpus: float | None = None
    spot: bool = False
    """Whether the provider may take it back."""
    price: float | None = None
    """Of one machine's hour; None where the file does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """All machines of a file."""

    name: str
    provider: str
    head: Group
    workers: tuple[Group, ...]
    most_workers: int
    """At a time, of all groups together."""
    idle_minutes: float | None = None
    """After which a worker goes; None where machines are not given back."""
    currency: str = ""

    @property
    def groups(self) -> tuple[Group, ...]:
        """The head, then the workers."""
        return (self.head, *self.workers)

    @property
    def unpriced(self) -> list[str]:
        """The groups whose price the file does not say."""
        return [group.name for group in self.groups if group.price is None and group.most]

    def most_an_hour(self) -> float | None:
        """The cost of an hour with as many of the dearest workers as may be up; None where a price is missing."""
        if self.unpriced:
            return None
        cost, left = self.head.price or 0.0, self.most_workers
        for group in sorted(self.workers, key=lambda group: group.price or 0.0, reverse=True):
            taken = min(left, group.most)
            cost += taken * (group.price or 0.0)
            left -= taken
        return cost


def price_of(prices: Mapping[str, object], group: str) -> float | None:
    """A group's price an hour from the file's own words; None where there is none."""
    price = prices.get(group)
    return float(price) if isinstance(price, int | float) and not isinstance(price, bool) and price >= 0 else None
