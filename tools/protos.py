"""Makes the Python modules of all `.proto` files below `swarmd/` and `tests/`.

    python -m tools.protos

Needs the extra `dev`. The modules are checked in, so that nobody else does; a test asserts that they are up to date.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("swarmd", "tests")
GENERATED = ("_pb2.py", "_pb2.pyi")


def sources() -> list[str]:
    """The `.proto` files, as they name each other."""
    return sorted(
        path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder).rglob("*.proto")
    )


def made() -> dict[str, str]:
    """The text of each module, by its path from the root. Raises `CalledProcessError` for a fault in a source."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}", f"-I{_folder_of('grpc_tools') / '_proto'}",
                f"-I{_folder_of('google.rpc').parents[1]}", f"--python_out={folder}", f"--pyi_out={folder}", *sources(),
            ],
            check=True,
            cwd=ROOT,
        )  # fmt: skip
        files = [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in files}


def checked_in() -> dict[str, str]:
    """The same, as it is in the source tree."""
    files = [
        path
        for ending in GENERATED
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*" + ending))
    ]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files}


def _folder_of(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None and spec.submodule_search_locations, f"{package} is not installed"
    return Path(spec.submodule_search_locations[0])


if __name__ == "__main__":
    texts = made()
    for name in checked_in().keys() - texts.keys():
        (ROOT / name).unlink()
    for name, text in texts.items():
        (ROOT / name).write_text(text, encoding="utf-8")
    print(f"made {len(texts)} files")
