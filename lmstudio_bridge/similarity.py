"""How close tools are to a task in meaning, where LM Studio has an embedding model in memory.

It only helps to rank, so nothing that goes wrong here is worth a word to anybody. A tool's vector is kept on
disk, by a digest of the tool's words; the task's is not.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from struct import pack, unpack

from pydantic import BaseModel, ConfigDict, ValidationError

from lmstudio_bridge.errors import LLMError
from lmstudio_bridge.llm.client import LLMClient
from lmstudio_bridge.messages import ServerTool
from lmstudio_bridge.private_files import make_folder, read_plain_file, replace_file

logger = logging.getLogger(__name__)

MAX_VECTORS = 500  # of one model that are kept; those not used for longest go first
MAX_BYTES = 16 * 1024 * 1024  # of one file: enough for vectors of 6,000 numbers
_MAX_AGE = 2.0  # seconds for which the list of models is believed: a model that has gone would be loaded again
_TIME = 3.0  # seconds; loaded embedding models need a tenth of it
_MAX_TEXT = 1_000  # characters of a tool or a task; models cut longer ones without a word
_PREFIXES = {"nomic": ("search_query: ", "search_document: ")}  # what these models were trained with

Vector = tuple[float, ...]


class ToolSimilarity:
    """Compares tasks with tools by LM Studio's embeddings; the vectors are kept in `folder`."""

    def __init__(self, client: LLMClient, *, folder: Path, seconds: float = _TIME) -> None:
        self._client = client
        self._folder = folder
        self._seconds = seconds
        self._kept: dict[str, dict[str, Vector]] = {}  # by model

    async def compare(self, task: str, tools: Sequence[ServerTool]) -> Mapping[tuple[str, str], float]:
        """The cosine of the task with each tool, by server and name; nothing where that cannot be had."""
        try:
            async with asyncio.timeout(self._seconds):
                return await self._compare(task, tools)
        except (LLMError, TimeoutError, OSError, ValueError, OverflowError) as exc:
            logger.debug("tools are ranked without embeddings: %s", exc)
            return {}

    async def _compare(self, task: str, tools: Sequence[ServerTool]) -> Mapping[tuple[str, str], float]:
        model = await self._model()
        if model is None or not tools:
            return {}
        query, document = next((both for name, both in _PREFIXES.items() if name in model.casefold()), ("", ""))
        texts = {(tool.server, tool.name): document + _words(tool) for tool in tools}
        kept = self._vectors(model)
        missing = list(dict.fromkeys(text for text in texts.values() if _digest(text) not in kept))[:MAX_VECTORS]
        asked = [query + task[:_MAX_TEXT], *missing]
        wanted, *new = map(_unit, await self._client.embed(asked, model=model))
        known = {**kept, **dict(zip(map(_digest, missing), new, strict=True))}
        used = {digest: known[digest] for digest in map(_digest, texts.values()) if digest in known}
        if new:
            self._keep(model, used)
        return {key: _cosine(wanted, used[digest]) for key in texts if (digest := _digest(texts[key])) in used}

    async def _model(self) -> str | None:
        """An embedding model that is in memory; a request for another would load it, and may evict the chat model."""
        for age in (None, _MAX_AGE):
            catalog = await self._client.validator.catalog(max_age=age)
            loaded = [model.key for model in catalog.models if model.kind == "embedding" and model.loaded]
            if not loaded or catalog.source != "/api/v1/models":
                return None
        return loaded[0]

    def _vectors(self, model: str) -> dict[str, Vector]:
        if model not in self._kept:
            try:
                stored = _Stored.model_validate_json(read_plain_file(self._path(model), most=MAX_BYTES))
                self._kept[model] = {digest: _decode(text) for digest, text in stored.vectors.items()}
            except (OSError, ValidationError, ValueError) as exc:
                logger.debug("no vectors of %s are kept: %s", model, exc)
                self._kept[model] = {}
        return self._kept[model]

    def _keep(self, model: str, used: Mapping[str, Vector]) -> None:
        before = self._vectors(model)
        both = {**{digest: vector for digest, vector in before.items() if digest not in used}, **used}
        self._kept[model] = dict(islice(both.items(), max(0, len(both) - MAX_VECTORS), None))
        encoded = {digest: _encode(vector) for digest, vector in self._kept[model].items()}
        make_folder(self._folder)
        replace_file(self._path(model), json.dumps({"version": 1, "model": model, "vectors": encoded}).encode())

    def _path(self, model: str) -> Path:
        return self._folder / f"{_digest(model)}.vectors"


class _Stored(BaseModel):
    model_config = ConfigDict(strict=True)

    vectors: dict[str, str]


def _words(tool: ServerTool) -> str:
    return f"{tool.name.replace('_', ' ')}: {tool.title} {tool.description}"[:_MAX_TEXT]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _unit(vector: Sequence[float]) -> Vector:
    """The vector with length 1, so that a product is a cosine.

    Raises:
        ValueError: It has no direction.
    """
    length = math.hypot(*vector)
    if not (vector and 0 < length < math.inf):
        raise ValueError("a vector has no direction")
    return tuple(number / length for number in vector)


def _cosine(one: Vector, other: Vector) -> float:
    """The cosine of two unit vectors; 0.0 if they cannot be of one model."""
    return sum(map(float.__mul__, one, other)) if len(one) == len(other) else 0.0


def _encode(vector: Vector) -> str:
    return b64encode(pack(f"<{len(vector)}f", *vector)).decode()


def _decode(text: str) -> Vector:
    """The vector that `_encode` wrote.

    Raises:
        ValueError: It wrote no such text.
    """
    data = b64decode(text, validate=True)
    return _unit(unpack(f"<{len(data) // 4}f", data[: len(data) // 4 * 4]))
