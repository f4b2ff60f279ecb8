"""Mixing: how often each document of each source is drawn, and in which order.

In: the size of each source (documents, bytes or tokens, one unit for all), weights, a seed. Out: numbers.

    temper      sizes and a temperature → weights, p ∝ n^(1/T): 1 keeps the sizes, higher lifts the small (mT5, 3.1)
    epochs      sizes, weights and a budget → how many times each source is read
    copies      epochs and a document → how many times that document is drawn
    obtained    amounts that were drawn → their shares

Everything depends on its arguments alone: a document is drawn as often whatever other documents come or go.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

from yanmo.errors import ConfigError, nearest

MAX_EPOCHS = 1000.0  # more copies of a text than this are a mistake, not a mix
Sizes = Mapping[str, int]


def temper(sizes: Sizes, temperature: float) -> dict[str, float]:
    """The share of each source or language, summing to 1, at a temperature of at least 1."""
    if not (math.isfinite(temperature) and temperature >= 1):
        raise ConfigError(f"mix.temperature is {temperature}: must be a number of at least 1; 1 keeps the sizes")
    _check_sizes(sizes)
    largest = max(sizes.values())
    powers = {name: (size / largest) ** (1 / temperature) for name, size in sizes.items()}
    total = math.fsum(powers.values())
    return {name: power / total for name, power in powers.items()}


def epochs(sizes: Sizes, weights: Mapping[str, float], budget: int) -> dict[str, float]:
    """How many times each source is read so that `budget`, in the unit of the sizes, is shared out by weight.

    A source without a weight, or with a weight of 0, is not read.
    """
    _check_sizes(sizes)
    if budget < 1:
        raise ConfigError(f"mix.budget is {budget:,}: must be at least 1")
    for name, weight in weights.items():
        if name not in sizes:
            raise ConfigError(f"mix.weights names {name!r}, which is no source{nearest(name, sizes)}")
        if not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(f"mix.weights.{name} is {weight}: must be a number of at least 0")
    total = math.fsum(weights.values())
    if not (math.isfinite(total) and total > 0):
        raise ConfigError(f"mix.weights sum to {total}: at least one must be above 0")
    found = {name: weights.get(name, 0.0) / total * budget / size for name, size in sizes.items()}
    for name, times in found.items():
        if times > MAX_EPOCHS:
            raise ConfigError(
                f"mix: {name} would be read {times:,.0f} times, at most {MAX_EPOCHS:,.0f} are allowed; lower its weight"
            )
    return found


def copies(times: float, source: str, document: str, seed: int) -> int:
    """How many times a document is drawn from a source that is read `times` times: whole epochs and a lot for the rest.

    The lot is a hash, so a larger `times` at the same seed draws every document at least as often.
    """
    whole = math.floor(times)
    return whole + (_hash(seed, "copies", source, document) < (times - whole) * 2**64)


def obtained(amounts: Sizes) -> dict[str, float]:
    """The share of each source in what was drawn; 0 for all where nothing was."""
    total = sum(amounts.values())
    return {name: amount / total if total else 0.0 for name, amount in amounts.items()}


def _check_sizes(sizes: Sizes) -> None:
    if not sizes:
        raise ConfigError("mix: no source is given; name at least one")
    for name, size in sizes.items():
        if size < 1:
            raise ConfigError(f"mix: the source {name} has the size {size:,}; leave out what is empty")


def _hash(seed: int, *parts: str) -> int:
    """64 bits of the seed and names; lengths go in too, so that ("ab", "c") and ("a", "bc") differ."""
    digest = hashlib.blake2b(str(seed).encode(), digest_size=8)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(b"\0%d\0" % len(data) + data)
    return int.from_bytes(digest.digest(), "little")
