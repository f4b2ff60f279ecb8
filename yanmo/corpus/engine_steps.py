"""One task of one step, by the names that travel to a worker: a work folder, a step, a number.

run_task     does it; everything it needs is in the work folder, and everything it makes goes there
serve        a worker of the local engine: lines of JSON in, lines of JSON out
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback

from yanmo.corpus import engine_read, engine_write
from yanmo.errors import Error, InputError

STEPS = {engine_read.STEP: engine_read.run, engine_write.STEP: engine_write.run, engine_write.FATES: engine_write.fates}


def run_task(work: str, step: str, number: int) -> tuple[str, str]:
    """("done", ""), ("refused", what is wrong with the texts), ("error", another sentence for the user), or ("defect",
    a traceback); a worker may also die."""
    try:
        STEPS[step](work, number)
    except InputError as error:
        return "refused", str(error)
    except Error as error:
        return "error", str(error)
    except OSError as error:
        return "error", f"{work}: cannot be written ({error}); free some space, and the same command goes on"
    except MemoryError:
        os._exit(1)
    except Exception:
        return "defect", traceback.format_exc()
    return "done", ""


def serve(work: str) -> None:
    """Do the tasks that stdin names, one after the other, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which ends its workers
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is not an answer
    for line in sys.stdin:
        step, number = json.loads(line)
        try:
            answers.write(json.dumps(run_task(work, step, number)) + "\n")
            answers.flush()
        except BrokenPipeError:  # the run that asked was killed
            os._exit(0)
