"""llama.cpp's own HTTP server as a process of its own: the nearest real thing to LM Studio's engine.

It has no native LM Studio routes (`/api/v0`, `/api/v1`), no loading and no unloading: `tests/lmstudio_sim` has those.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import anyio
import httpx2
from anyio.abc import ByteReceiveStream, Process

TEMPLATES = Path(__file__).parent / "templates"
CHECKOUT = Path(__file__).parents[3]

LOAD_SECONDS = 120.0
"""Bound on start, load and first answer of /health; the 1.5B model needs about 3 s from a warm page cache."""

STOP_SECONDS = 5.0
"""How long SIGTERM may take before SIGKILL follows."""

LOG_LINES = 40
"""What is kept of the engine's own log for an error message."""


class EngineError(Exception):
    """The engine can't be had or did not start; `remedy` says what to do next."""

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Engine:
    """A running engine: `url` is the server's root, without `/v1`."""

    url: str
    pid: int


def check_engine_package() -> None:
    """Raise EngineError when the Python package that carries llama.cpp isn't installed."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise EngineError(
            "the inference engine (Python package xllamacpp) is not installed",
            remedy="install the dependency group: pip install --group engine (Linux x86-64 or macOS)",
        )


@asynccontextmanager
async def open_engine(
    gguf: Path,
    *,
    alias: str,
    context_length: int = 16384,
    parallel: int = 2,
    chat_template: Path | None = None,
    threads: int = 2,
    load_seconds: float = LOAD_SECONDS,
) -> AsyncIterator[Engine]:
    """Serve `gguf` as the model `alias` on a loopback port until the block is left.

    `context_length` (tokens) is shared by the `parallel` slots: 16384 with two slots gives each request 8192.
    A request that names no temperature gets 0, so that the same request has the same answer.
    The engine ends with this process, even if this process is killed: it watches the stdin that we hold.

    Raises:
        EngineError: the package is missing, or the engine ended or hung before it was ready (with its last log lines).
    """
    check_engine_package()
    command = _serve_command(
        gguf,
        alias=alias,
        context_length=context_length,
        parallel=parallel,
        chat_template=chat_template,
        threads=threads,
    )
    with tempfile.TemporaryFile() as log:  # not a pipe: a reader task would wrap the caller's exceptions in a group
        process = await anyio.open_process(
            command, cwd=CHECKOUT, stdin=subprocess.PIPE, stderr=log, start_new_session=True
        )
        try:
            url = await _wait_until_ready(process, log, load_seconds)
            yield Engine(url=url, pid=process.pid)
        finally:
            with anyio.CancelScope(shield=True):
                await stop_process(process)


def _serve_command(
    gguf: Path, *, alias: str, context_length: int, parallel: int, chat_template: Path | None, threads: int
) -> list[str]:
    command = [sys.executable, "-m", "scripts.tools.engine.server", "--gguf", str(gguf.resolve()), "--alias", alias]
    command += ["--ctx", str(context_length), "--parallel", str(parallel), "--threads", str(threads)]
    if chat_template is not None:
        command += ["--chat-template", str(chat_template.resolve())]
    return [*command, "--end-with-stdin"]


async def _wait_until_ready(process: Process, log: IO[bytes], load_seconds: float) -> str:
    assert process.stdout is not None
    try:
        with anyio.fail_after(load_seconds):
            url = str(json.loads(await read_first_line(process.stdout))["url"])
            async with httpx2.AsyncClient(trust_env=False) as client:
                (await client.get(f"{url}/health")).raise_for_status()  # it listens only once the model is loaded
            return url
    except TimeoutError as exc:
        raise _start_error(f"did not become ready within {load_seconds:g} s", log) from exc
    except (anyio.EndOfStream, ValueError, httpx2.HTTPError) as exc:
        raise _start_error("failed to start", log) from exc


def _start_error(what_happened: str, log: IO[bytes]) -> EngineError:
    log.seek(0)
    tail = b"".join(deque(log, maxlen=LOG_LINES)).decode("utf-8", errors="replace").strip()
    return EngineError(
        f"the engine {what_happened}; its log ends with:\n{tail or '(nothing was logged)'}",
        remedy="check that the file is a GGUF model that fits into memory",
    )


async def read_first_line(stdout: ByteReceiveStream) -> str:
    """What a process says first, without the line's end."""
    line = b""
    while b"\n" not in line:
        line += await stdout.receive()
    return line.partition(b"\n")[0].decode("utf-8")


async def stop_process(process: Process) -> None:
    """End the process by its id: SIGTERM, then SIGKILL; returns when it has ended."""
    for end in (process.terminate, process.kill):
        with suppress(ProcessLookupError), anyio.move_on_after(STOP_SECONDS):
            end()
            await process.wait()
        if process.returncode is not None:
            break
    await process.aclose()


def serve(options: argparse.Namespace) -> None:
    """Load the model, print where the server listens, and stay until SIGTERM (or the end of stdin, if asked)."""
    import xllamacpp  # type: ignore[import-not-found,import-untyped,unused-ignore]  # optional, and it has no types

    own_stdout = os.dup(1)
    os.dup2(2, 1)  # the C++ side may log to stdout; the first line there must be ours
    params = xllamacpp.CommonParams()
    params.model.path = str(options.gguf)
    params.model_alias = {options.alias}
    params.hostnames = ["127.0.0.1"]
    params.port = options.port
    params.n_ctx = options.ctx
    params.n_parallel = options.parallel
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.endpoint_slots = params.endpoint_props = params.endpoint_metrics = True
    params.ui = False
    params.use_jinja = True
    params.sampling.temp = options.temperature
    if options.chat_template is not None:
        params.chat_template = options.chat_template.read_text(encoding="utf-8")
    server = xllamacpp.Server(params)
    with os.fdopen(own_stdout, "w", encoding="utf-8") as out:
        print(json.dumps({"url": server.listening_address}), file=out, flush=True)
    if options.end_with_stdin:
        sys.stdin.buffer.read()
    else:
        signal.pause()


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.tools.engine.server", description=__doc__)
    parser.add_argument("--gguf", type=Path, required=True, metavar="FILE")
    parser.add_argument("--alias", required=True, metavar="NAME", help="the model's name in the API")
    parser.add_argument("--port", type=int, default=0, help="0 lets the system choose")
    parser.add_argument("--ctx", type=int, default=16384, metavar="TOKENS", help="shared by the slots")
    parser.add_argument("--parallel", type=int, default=2, metavar="SLOTS")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--temperature", type=float, default=0.0, help="for requests that name none; 0 is repeatable")
    parser.add_argument("--chat-template", type=Path, metavar="FILE", help="jinja; the model's own one if not given")
    parser.add_argument("--end-with-stdin", action="store_true", help="end when stdin is closed")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    serve(parse_options())
