"""The engine on a real Ray cluster on this machine: a worker killed in the middle, and the same bytes."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

import pytest

from tests.corpus.made_sources import fingerprints, sources
from yanmo.corpus import engine
from yanmo.corpus.engine_ray import OnRay
from yanmo.corpus.settings import load_settings

psutil = pytest.importorskip("psutil", reason="finding Ray's workers needs psutil")


@pytest.mark.filterwarnings("ignore")  # Ray's own, of its start and its end
def test_on_ray_with_a_worker_killed_the_corpus_has_the_same_bytes(tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.setattr(engine, "TASK_BYTES", 4000)
    raw, settings = sources(tmp_path / "raw"), load_settings(None, ["out.shard_mb=0.02"])
    engine.make_corpus([raw], tmp_path / "local", settings, workers=2)
    killed = []

    class Hunted(OnRay):
        def submit(self, step, number):
            super().submit(step, number)
            if step == "read" and number == 4:
                threading.Thread(target=self.hunt, daemon=True).start()

        def hunt(self):
            for _ in range(200):
                for child in psutil.Process().children(recursive=True):
                    with contextlib.suppress(psutil.Error, ProcessLookupError):
                        if "ray::run_task" in " ".join(child.cmdline()):
                            os.kill(child.pid, signal.SIGKILL)
                            killed.append(child.pid)
                            return
                time.sleep(0.005)

    monkeypatch.setitem(engine.ENGINES, "ray", Hunted)
    engine.make_corpus([raw], tmp_path / "ray", settings, engine="ray", workers=3)
    assert killed, "no worker was met at work"
    assert fingerprints(tmp_path / "ray") == fingerprints(tmp_path / "local")
