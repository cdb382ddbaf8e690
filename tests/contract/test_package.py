"""What is published: a wheel with nothing but the package, and an sdist with all of the repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import BytesParser
from importlib.metadata import packages_distributions, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.support.raw_client import ERAS, open_raw_client
from tests.support.wheels import PACKAGE, ROOT, Archives, build_archives, find_program, uvx_command

SPEC = find_spec("lmstudio_bridge")
assert SPEC is not None
assert SPEC.origin is not None
IMPORTED = Path(SPEC.origin).parent
VERSION = version("lmstudio-bridge")
INFO = f"lmstudio_bridge-{VERSION}.dist-info"


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Archives:
    uv = find_program("uv")
    if uv is None:
        pytest.skip("uv is not there")
    return build_archives(uv, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def wheel(archives: Archives) -> dict[str, bytes]:
    """The wheel's files by their names."""
    with zipfile.ZipFile(archives.wheel) as file:
        return {name: file.read(name) for name in file.namelist()}


@pytest.fixture(scope="module")
def sdist(archives: Archives) -> dict[str, bytes]:
    """The sdist's files by their names, without the folder that all are in."""
    found = {}
    with tarfile.open(archives.sdist) as file:
        for member in file:
            content = file.extractfile(member)
            assert content is not None, f"{member.name} is no file"
            found[member.name.partition("/")[2]] = content.read()
    return found


@pytest.fixture(scope="module")
def metadata(wheel: dict[str, bytes]) -> Message:
    return BytesParser().parsebytes(wheel[f"{INFO}/METADATA"])


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """What pyproject.toml says of the project."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project


def test_tests_import_the_checkout_and_without_its_package_the_installed_one() -> None:
    installed = Path(sysconfig.get_path("purelib"), PACKAGE.name)
    code = "import lmstudio_bridge; print(lmstudio_bridge.__file__)"
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}  # as many tests start the bridge
    other = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)

    assert {IMPORTED, Path(other.stdout.strip()).parent} == {PACKAGE if PACKAGE.exists() else installed}


def test_wheel_holds_the_package_as_it_is_and_nothing_else(wheel: dict[str, bytes]) -> None:
    """The wheel is built from the sdist, so nothing is missing there either."""
    about = {f"{INFO}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")}
    package = {
        f"{PACKAGE.name}/{path.relative_to(IMPORTED).as_posix()}": path.read_bytes()
        for path in IMPORTED.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }

    assert {name: content for name, content in wheel.items() if name not in about} == package
    assert about <= set(wheel)
    assert wheel[f"{PACKAGE.name}/py.typed"] == b""
    assert wheel[f"{INFO}/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()


def test_no_file_tells_of_the_machine_it_was_built_on(wheel: dict[str, bytes], sdist: dict[str, bytes]) -> None:
    places = [str(place).encode() for place in (ROOT, Path(sys.prefix), Path.home()) if len(place.parts) > 2]

    telling = [name for files in (wheel, sdist) for name, text in files.items() if any(p in text for p in places)]

    assert telling == []


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="only git knows what is in the repository")
def test_sdist_holds_every_file_of_the_repository(sdist: dict[str, bytes]) -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}

    assert tracked - set(sdist) == set()
    assert {name for name in sdist if "/" not in name} - tracked == {"PKG-INFO"}
    assert not [name for name in sdist if "node_modules" in name or name.endswith(".pyc")]


def test_metadata_say_what_the_project_says(metadata: Message, project: dict[str, Any]) -> None:
    assert metadata["Name"] == project["name"]
    assert metadata["Version"] == VERSION
    assert metadata["Summary"] == project["description"]
    assert metadata["Requires-Python"] == project["requires-python"]
    assert (metadata["License-Expression"], metadata["License-File"]) == ("MIT", "LICENSE")
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload(decode=True) == (ROOT / "README.md").read_bytes()
    needed = [each for each in metadata.get_all("Requires-Dist", []) if "extra ==" not in each]
    assert sorted(map(name_of, needed)) == sorted(map(name_of, project["dependencies"]))


def test_classifiers_name_every_python_that_is_tested(project: dict[str, Any]) -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    (matrix,) = re.findall(r"python: \[(.*)\]", workflow)
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))

    assert named == re.findall(r"3\.\d+", matrix)
    assert project["requires-python"] == f">={named[0]}"


def test_what_the_package_imports_comes_with_it(project: dict[str, Any]) -> None:
    """From a dependency, or from what a dependency needs; never only from the tools of development."""
    declared = {name_of(each) for each in project["dependencies"]}
    coming = declared | {name_of(each) for name in declared for each in requires(name) or () if "extra" not in each}
    owners = packages_distributions()

    missing = {top for top in imported_packages() if not coming & plain(owners[top])}

    assert missing == set()


def imported_packages() -> set[str]:
    """The top-level names of other packages that the package imports anywhere."""
    # In a process of its own: after a test with deep recursion, CPython 3.11's parser may fail in this one.
    done = subprocess.run(
        [sys.executable, "-c", _FIND_IMPORTS, str(IMPORTED)], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split()) - sys.stdlib_module_names - {IMPORTED.name}


_FIND_IMPORTS = """
import ast, pathlib, sys
for path in pathlib.Path(sys.argv[1]).rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            print(*[alias.name.partition(".")[0] for alias in node.names])
        elif isinstance(node, ast.ImportFrom) and node.module:
            print(node.module.partition(".")[0])
"""


def plain(names: list[str]) -> set[str]:
    return {name_of(name) for name in names}


def name_of(requirement: str) -> str:
    """The name in `Some_Name>=1; python_version < "4"`, in the one spelling that the index uses."""
    (name,) = re.findall(r"^[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", name).lower()


async def test_wheel_serves_its_tools_under_uvx(archives: Archives, tmp_path: Path) -> None:
    """As Claude Code starts it, and with nothing but what it needs itself."""
    uvx = find_program("uvx")
    if uvx is None:
        pytest.skip("uvx is not there")
    environ = {"PYTHONPATH": "", "LMSTUDIO_BRIDGE_HOME": str(tmp_path)}
    async with open_raw_client(era=ERAS[0], environ=environ, command=uvx_command(uvx, archives.wheel)) as client:
        answer = await client.request("tools/list", {})

    assert "autonomous_with_mcp" in [tool["name"] for tool in answer["tools"]]
