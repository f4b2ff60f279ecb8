"""The native kernels under the compiler's sanitizers: memory beyond a buffer, undefined arithmetic, racing threads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from yanmo.kernels.native import FOLDER

DRIVER = Path(__file__).with_name("driver.cpp")
GENTLE = ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]  # GCC 12 warns of its own immintrin.h


@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_every_kernel_keeps_within_its_memory_and_threads_do_not_race(sanitizers, tmp_path):
    compiler = next(
        (found for name in (os.environ.get("CXX", ""), "c++", "g++") if (found := shutil.which(name))), None
    )
    if compiler is None or sys.platform == "win32":
        pytest.skip("no C++ compiler that has these sanitizers")
    flags = ["-std=c++17", "-O1", "-g1", "-pthread", "-ffp-contract=off", "-DYANMO_SANITIZE", *GENTLE]
    flags += [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    empty = tmp_path / "empty.cpp"
    empty.write_text("int main() {}")
    program = tmp_path / "driver"
    if subprocess.run([compiler, *flags, str(empty), "-o", str(program)], capture_output=True).returncode:
        pytest.skip(f"this compiler has no -fsanitize={sanitizers}")
    sources = sorted(str(path) for path in (FOLDER / "native").glob("*.cpp"))
    built = subprocess.run(
        [compiler, *flags, f"-I{FOLDER / 'native'}", *sources, str(DRIVER), "-o", str(program)],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr[-4000:]
    ran = subprocess.run([str(program)], capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    assert ran.stdout.endswith("levels, 0 wrong\n")
