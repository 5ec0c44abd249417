"""The models that scenarios are measured with, made by `prima model synth` or files that are there already,
and copies of them for devices; what is made stays for as long as a `with` block.

Not thread-safe.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

from household import HERE, SPARE_DISK_BYTES, LabError
from scenario import MODELS, TINYLLAMA


def demo_model() -> pathlib.Path:
    cache = os.environ.get("PRIMA_CACHE_DIR") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "prima")
    return pathlib.Path(cache) / "models/tinyllama-1.1b-chat-iq2_xxs.gguf"


class Models:
    """Each is made once. All that were made are removed at the end, even that of a killed program."""

    def __init__(self, prima: pathlib.Path, folder: pathlib.Path, given: pathlib.Path | None):
        self.prima = prima
        self.folder = folder
        self.given = given

    def __enter__(self) -> Models:
        shutil.rmtree(self.folder, ignore_errors=True)
        self._sweeper = subprocess.Popen(
            [sys.executable, str(HERE / "sweep.py"), self.folder.name, str(self.folder)], stdin=subprocess.PIPE,
            text=True, start_new_session=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._sweeper.communicate("")

    def path(self, name: str) -> pathlib.Path:
        if self.given:
            return self.given
        if name == TINYLLAMA:
            path = demo_model()
            if not path.exists():
                raise LabError(f"the demo's model is not at {path}. tools/setup.sh fetches it.")
            return path
        path = self.folder / f"{name}.gguf"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            print(f"lab: making the {name} model", file=sys.stderr, flush=True)
            done = subprocess.run([str(self.prima), "model", "synth", *MODELS[name], "-o", str(path)],
                                  capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise LabError(f"prima model synth: {done.stderr.strip()[-500:]}")
        return path

    def copies(self, path: pathlib.Path, count: int) -> list[pathlib.Path] | None:
        """So many files of one content, for all scenarios; None where the disk is too small."""
        copies = [self.folder / f"{path.stem}-{number}.gguf" for number in range(1, count + 1)]
        missing = [copy for copy in copies if not copy.exists()]
        self.folder.mkdir(parents=True, exist_ok=True)
        for other in self.folder.glob("*-[0-9].gguf"):
            if not other.name.startswith(f"{path.stem}-"):
                other.unlink()  # of another model, whose scenarios are over
        if len(missing) * path.stat().st_size + SPARE_DISK_BYTES > shutil.disk_usage(self.folder).free:
            return None
        for copy in missing:
            # Under another name until it is whole.
            part = copy.with_suffix(".part")
            subprocess.run(["cp", str(path), str(part)], check=True)
            part.rename(copy)
        return copies
