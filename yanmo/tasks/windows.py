"""A text that is longer than the model → windows over its tokens that share some, so that nothing is cut in silence.

In: the number of tokens, how many fit, how many two neighbours share. Out: (begin, end) of each window.
"""

from __future__ import annotations

from yanmo.errors import InputError


def windows(count: int, room: int, stride: int) -> list[tuple[int, int]]:
    """Windows of `room` tokens at most that cover all `count`; neighbours share `stride`, the last two often more.

    The last window ends with the text and is as long as the others. One window where all fits; none has no tokens but
    that of an empty text.
    """
    if room < 1 or not 0 <= stride < room:
        raise InputError(f"windows of {room} tokens that share {stride} do not move; make them longer, or share fewer")
    if count <= room:
        return [(0, count)]
    begins = [*range(0, count - room, room - stride), count - room]
    return [(begin, begin + room) for begin in begins]
