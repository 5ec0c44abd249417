"""The models that scenarios are measured with: made by `prima model synth` for as long as a `with` block,
or files that are there already.

Not thread-safe.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

from household import HERE, LabError
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
