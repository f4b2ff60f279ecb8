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
TEXT_DRIVER = Path(__file__).with_name("text_driver.cpp")
GENTLE = ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]  # GCC 12 warns of its own immintrin.h


@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_every_kernel_keeps_within_its_memory_and_threads_do_not_race(sanitizers, tmp_path):
    assert run_driver(DRIVER, "native", sanitizers, tmp_path).endswith("levels, 0 wrong\n")


def test_the_kernels_of_texts_keep_within_their_memory(tmp_path):
    said = run_driver(TEXT_DRIVER, "text", "address,undefined", tmp_path)
    assert said.endswith("library, 0 wrong\n")


def run_driver(driver: Path, kernels: str, sanitizers: str, tmp_path: Path) -> str:
    """What a driver says, built with the sources of a folder of kernels; skips where the sanitizers are missing."""
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
    sources = sorted(str(path) for path in (FOLDER / kernels).glob("*.cpp"))
    built = subprocess.run(
        [compiler, *flags, f"-I{FOLDER / kernels}", *sources, str(driver), "-o", str(program)],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr[-4000:]
    ran = subprocess.run([str(program)], capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    return ran.stdout
