"""The build of the native kernels (yanmo/kernels/native): optional, since every kernel has a twin in plain PyTorch.

The library has a C interface that is called through ctypes and touches nothing of Python, so one wheel serves every
Python of a platform. Without a C++ compiler the installation goes on and says what is missing (so does `yanmo doctor`).
In a checkout: `python setup.py build_ext --inplace`.
"""

from __future__ import annotations

import os
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NATIVE = Path("yanmo/kernels/native")
# no contraction: a multiplication and an addition round as they are written, on every level and in the twin alike
UNIX = ["-std=c++17", "-O3", "-g0", "-ffp-contract=off", "-fvisibility=hidden", "-pthread"]
UNIX += ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]  # GCC 12 says so of its own immintrin.h
WINDOWS = ["/std:c++17", "/utf-8", "/O2", "/EHsc", "/fp:precise"]


class BuildNative(build_ext):
    """Compile with the flags of the compiler at hand, a library without Python's entry point."""

    def build_extension(self, ext: Extension) -> None:
        windows = self.compiler.compiler_type == "msvc"
        ext.extra_compile_args = (WINDOWS if windows else UNIX) + os.environ.get("YANMO_CXXFLAGS", "").split()
        ext.extra_link_args = [] if windows else ["-pthread"] + os.environ.get("YANMO_CXXFLAGS", "").split()
        super().build_extension(ext)

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """None: the functions name themselves, and there is no PyInit."""
        return []


native = Extension(
    "yanmo.kernels._native",
    sources=sorted(path.as_posix() for path in NATIVE.glob("*.cpp")),
    depends=sorted(path.as_posix() for ending in ("*.h", "*.inl") for path in NATIVE.glob(ending)),
    language="c++",
    py_limited_api=True,
    optional=True,
)

# What reads texts: no tensors, no levels of processors, and a library of its own, so that rooms without torch load it.
TEXT = Path("yanmo/kernels/text")
text = Extension(
    "yanmo.kernels._text",
    sources=sorted(path.as_posix() for path in TEXT.glob("*.cpp")),
    depends=sorted(path.as_posix() for path in TEXT.glob("*.h")),
    language="c++",
    py_limited_api=True,
    optional=True,
)

setup(
    ext_modules=[native, text],
    cmdclass={"build_ext": BuildNative},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
