"""Guess the next tokens from the text itself, and let one step of the network check them all.

    Lookup       where the last tokens stood before, and what followed (prompt lookup, Saxena 2023)
    Controller   whether checking guesses pays, from what steps took and how many guesses held

A guess is checked by the network's own choice, greedy or drawn, so the text is the one that it would have written.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

SEEN = 3  # tokens that must have stood together before
SHARE = 0.2  # of the newest observation in a running mean
PAUSE, LONGEST_PAUSE = 32, 1024  # steps between two trials where guessing did not pay
LOSS = 0.01  # share of the time that trials may take beyond it
ACCOUNT, GRACE = 0.005, 2  # of all time, and steps: what guessing may lose in all, as its account says


class Lookup:
    """The tokens of one text, the prompt included."""

    def __init__(self, rate: float) -> None:
        self.tokens: list[int] = []
        self.rate = rate  # share of its guesses that are likely to hold
        self._after: dict[tuple[int, ...], int] = {}  # the last tokens → the place behind them
        self._found = -1

    def extend(self, tokens: Iterable[int]) -> None:
        """Tokens that follow."""
        for token in tokens:
            self.tokens.append(token)
            if len(self.tokens) >= SEEN:
                key = tuple(self.tokens[-SEEN:])
                self._found = self._after.get(key, -1)
                self._after[key] = len(self.tokens)

    def guess(self, most: int) -> list[int]:
        """At most so many tokens that followed the last time; often none."""
        return self.tokens[self._found : self._found + most] if self._found >= 0 and most > 0 else []

    def learn(self, share: float) -> None:
        """What share of the guesses held."""
        self.rate += SHARE * (share - self.rate)


class Controller:
    """Compares the time of a step with guesses and of one without, for each number of rows.

    Where guessing does not pay it is tried again after a pause, which doubles each time that it still does not, so
    that what the trials cost stays a small share: with a step of twice the time, one in 100 to 1024. Whatever it hopes
    for, no guesses are made while those before have lost more time than GRACE and ACCOUNT allow.
    """

    def __init__(self, rate: float = 0.3) -> None:
        self.rate = rate  # share of all guesses that held: what a new text begins with
        self._spent = self._lost = 0.0  # seconds in all, and those that guessing took more than it saved
        self._seconds: dict[tuple[int, bool], float] = {}
        self._pause: dict[int, int] = {}
        self._left: dict[int, int] = {}

    def wants(self, rows: int, expected: float) -> bool:
        """Whether to check guesses in this step, of which `expected` are likely to hold."""
        without, guessing = self._seconds.get((rows, False)), self._seconds.get((rows, True))
        if without is None or self._lost > GRACE * without + ACCOUNT * self._spent:
            return False
        if guessing is None or (rows + expected) / guessing > rows / without:
            if guessing is not None:
                self._pause[rows] = PAUSE
            return True
        first = max(self._pause.setdefault(rows, PAUSE), math.ceil((guessing / without - 1) / LOSS))
        left = self._left.get(rows, first) - 1
        if left > 0:
            self._left[rows] = left
            return False
        self._pause[rows] = min(2 * self._pause[rows], LONGEST_PAUSE)
        self._left[rows] = max(self._pause[rows], math.ceil((guessing / without - 1) / LOSS))
        return True

    def learn(self, share: float) -> None:
        """What share of the guesses of one text held."""
        self.rate += SHARE / 4 * (share - self.rate)

    def saw(self, rows: int, guessed: bool, seconds: float, gained: int = 0, extra: float = 0.0) -> None:
        """What a step of so many rows took, and how many tokens it gave beyond one for each row.

        extra: seconds besides, spent once for many guesses to come.
        """
        without = self._seconds.get((rows, False))
        self._spent += seconds + extra
        if guessed and without is not None:
            self._lost = max(0.0, self._lost + seconds + extra - without * (rows + gained) / rows)
        before = self._seconds.get((rows, guessed), seconds)
        self._seconds[rows, guessed] = before + SHARE * (seconds - before)
