"""What goes wrong in a run, and how often. Drawn by the seed, so that each run has faults of its own.

A run in which everything fails all the time meets few deep states: what would lead there is interrupted.
So every run leaves some kinds of faults out, as in "Swarm Testing" (Groce et al., ISSTA 2012).
"""

from dataclasses import dataclass, fields
from random import Random
from typing import Final

_LEFT_OUT: Final = 0.35
"""How many of the kinds of faults a run goes without."""


@dataclass(frozen=True, slots=True)
class Weather:
    """Probabilities; those of steps are relative to the weights of all the others."""

    # at a crash point
    crash: float = 0.0
    meanwhile: float = 0.0
    """Others act while this process stands between two of its transactions."""
    cut_off: float = 0.0
    """It has lost its connections when it goes on."""
    # in the database
    commit_lost_before: float = 0.0
    commit_lost_after: float = 0.0
    # between producer and broker, for each flush
    bad_delivery: float = 0.0
    no_answer: float = 0.0
    queue_full: float = 0.0
    held_back: float = 0.0
    """For each record: it is taken, and comes after others that were sent later."""
    # between broker and consumer
    offsets_lost: float = 0.0
    # in a handler, for each message or command
    handler_bug: float = 0.0
    # at the provider, for each call
    request_lost: float = 0.0
    answer_lost: float = 0.0
    answer_slow: float = 0.0
    # as steps
    broker_stops: float = 0.0
    rebalance: float = 0.0
    rewind: float = 0.0
    tail_lost: float = 0.0
    all_lost: float = 0.0
    poison: float = 0.0
    connections_drop: float = 0.0
    leap: float = 0.0
    """Much time passes at once."""


CALM: Final = Weather()

# The most of each, and for steps the weight, where all the others together have some hundreds.
_MOST: Final = Weather(
    crash=0.03,
    meanwhile=0.12,
    cut_off=0.03,
    commit_lost_before=0.02,
    commit_lost_after=0.02,
    bad_delivery=0.25,
    no_answer=0.04,
    queue_full=0.002,
    held_back=0.3,
    offsets_lost=0.3,
    handler_bug=0.03,
    request_lost=0.1,
    answer_lost=0.1,
    answer_slow=0.1,
    broker_stops=0.6,
    rebalance=3.0,
    rewind=1.0,
    tail_lost=1.0,
    all_lost=0.1,
    poison=0.4,
    connections_drop=1.0,
    leap=1.0,
)


def draw(random: Random) -> Weather:
    """The weather of one run."""
    drawn = {}
    for kind in fields(Weather):
        most: float = getattr(_MOST, kind.name)
        share = random.random()
        drawn[kind.name] = most * share if random.random() >= _LEFT_OUT else 0.0
    return Weather(**drawn)
