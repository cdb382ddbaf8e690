"""Messages that list names list so many."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmstudio_bridge.errors import SHOWN_NAMES, ServerNotConfiguredError, listed
from lmstudio_bridge.mcp_client.discovery import ServerCatalog
from lmstudio_bridge.messages import ServerConfig


@pytest.mark.parametrize(
    ("number", "end"),
    [(SHOWN_NAMES - 1, "n17, n18"), (SHOWN_NAMES, "n18, n19"), (SHOWN_NAMES + 1, "n18, n19, and 1 more")],
)
def test_so_many_names_are_listed(number: int, end: str) -> None:
    assert listed([f"n{n}" for n in range(number)]).endswith(end)


def test_thousands_of_servers_make_no_flood_of_an_error() -> None:
    servers = {f"server-{n:04}": ServerConfig(f"server-{n:04}", "stdio", "x") for n in range(3_000)}
    catalog = ServerCatalog(Path("/project"), servers)

    with pytest.raises(ServerNotConfiguredError) as caught:
        catalog.require("other")

    assert "server-0019, and 2,980 more." in caught.value.explain()
    assert len(caught.value.explain()) < 1_000
