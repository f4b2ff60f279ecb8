"""`python -m yanmo` is the command `yanmo`."""

from __future__ import annotations

from yanmo.cli import main

if __name__ == "__main__":
    main()
