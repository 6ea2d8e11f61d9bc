"""What the three parts share: kit, device and faces, the clock, and what is written into OUT."""

import contextlib
import io
import json
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.gpu.faces import LfwCrops, TrainingFaces, join
from facelib import provenance
from facelib.embedder import choose_device

LARGEST = 16 * 2**20  # bytes of a file in OUT


class Bench:
    def __init__(self, kit: Path, about: dict, out: Path, work: Path, device: str):
        """`about` is kit.json, `work` is scratch. Raises ValueError for a device that is not there."""
        self.kit, self.about, self.out, self.work, self.device = kit, about, out, work, choose_device(device)
        self.environment = provenance.environment(self.device) | {"commit": about["commit"]}
        # Of each part by name, and runs-1.zip, runs-2.zip, ...: what an earlier call has left in OUT stays there.
        self.measured = {file.stem: json.loads(file.read_bytes()) for file in out.glob("*.json")}
        self.archives = [unzipped(out / f"runs-{k}.zip") for k in range(1, 1 + len([*out.glob("runs-*.zip")]))] or [{}]
        self.began = self.until = time.monotonic()  # and when the part that runs must be through
        self.records = work / "faces"  # the training faces as RecordIO
        out.mkdir(parents=True, exist_ok=True)
        join(kit, self.records)
        with self.aside():
            self.faces, self.lfw = TrainingFaces(self.records, self.device), LfwCrops(kit / "lfw")
        self.say(f"{self.environment['machine']}: {len(self.faces)} training faces, {len(self.lfw.pairs)} pairs")

    def left(self) -> float:
        """Seconds."""
        return self.until - time.monotonic()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Bars and warnings go into OUT/stderr.txt."""
        with (self.out / "stderr.txt").open("a") as said, contextlib.redirect_stderr(said):
            yield

    def say(self, line: str) -> None:
        line = f"{time.monotonic() - self.began:4.0f} s  {line}"
        print(line, flush=True)
        with (self.out / "log.txt").open("a") as log:
            log.write(line + "\n")

    def measure(self, part: str, name: str, seconds: float, call: Callable) -> None:
        """Say what the call returns, or why it does not, and keep it in OUT/<part>.json."""
        try:
            if self.left() < seconds:
                raise TimeoutError("no time was left")
            with self.aside():
                found = call(self)
        except TimeoutError as error:
            found = {"left out": str(error)}
        except Exception as error:  # whatever a GPU makes it raise: the rest goes on
            found = {"failed": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}
        self.measured.setdefault(part, {}).update({"environment": self.environment, name: found})
        replace(self.out / f"{part}.json", json.dumps(self.measured[part], indent=2).encode())
        shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in found.items()}
        self.say(f"{part}: {name}: {', '.join(f'{key} {value}' for key, value in shown.items() if key != 'of')}")

    def keep(self, files: dict[str, bytes]) -> None:
        """Add files to the last of OUT/runs-1.zip, runs-2.zip, ..., or to a new one where it would be too large."""
        if len(zipped(self.archives[-1] | files)) > LARGEST:
            self.archives.append({})
        self.archives[-1] |= files
        replace(self.out / f"runs-{len(self.archives)}.zip", zipped(self.archives[-1]))


def zipped(files: dict[str, bytes]) -> bytes:
    with zipfile.ZipFile(archive := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in files.items():
            target.writestr(name, content)
    return archive.getvalue()


def unzipped(archive: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as source:
        return {name: source.read(name) for name in source.namelist()}


def replace(file: Path, content: bytes) -> None:
    partial = file.with_suffix(".partial")
    partial.write_bytes(content)
    partial.replace(file)
