"""`lmstudio-bridge login` and `logout`: signing in to MCP servers that use OAuth."""

from __future__ import annotations

import argparse
import os
import sys
import webbrowser

import anyio
import anyio.to_thread

from lmstudio_bridge.cli.arguments import EXIT_FAILED, EXIT_OK
from lmstudio_bridge.errors import SettingsError
from lmstudio_bridge.mcp_client.logins import LoginStore
from lmstudio_bridge.mcp_client.oauth import SignIn, load_login, revoke, sign_in
from lmstudio_bridge.runs.autonomous import open_agent, read_servers
from lmstudio_bridge.security.redact import Redactor
from lmstudio_bridge.settings import Settings
from lmstudio_bridge.text import one_line


async def log_in(settings: Settings, args: argparse.Namespace, redactor: Redactor) -> int:
    """Sign in to a server through the browser, and show that the login works."""
    config = read_servers(settings, environ=os.environ, redactor=redactor).require(args.server)
    store = LoginStore(settings.home / "logins", learn=redactor.learn)

    async def show(address: str) -> None:
        if args.no_browser:
            print(address, flush=True)
            return
        print(f"Sign in to {one_line(config.name)} in the browser. If none opens, open this address:", file=sys.stderr)
        print(address, flush=True)
        await anyio.to_thread.run_sync(webbrowser.open, address, abandon_on_cancel=True)

    in_keyring = await sign_in(config, store, SignIn(show, port=args.port, client_id=args.client_id))
    where = "in the system's keyring" if in_keyring else "in a file that only you can read"
    print(f"Logged in to {one_line(config.name)}; the login is kept {where}.", file=sys.stderr)
    async with open_agent(settings, environ=os.environ, redactor=redactor) as agent:
        with agent.pool.lease() as lease:
            tools = await lease.open_server(config)
    print(f"The server offers {len(tools)} tools.", file=sys.stderr)
    return EXIT_OK


async def log_out(settings: Settings, args: argparse.Namespace, redactor: Redactor) -> int:
    """Delete the login of a server here, and end it at the service if that is possible."""
    store = LoginStore(settings.home / "logins", learn=redactor.learn)
    catalog = read_servers(settings, environ=os.environ, redactor=redactor)
    # A login may be older than the decision not to use the server, or to remove it.
    config = {**catalog.unapproved, **catalog.servers}.get(args.server)
    url = config.url if config else store.find(args.server) or catalog.require(args.server).url
    login = load_login(store, url)
    try:
        there = store.forget(url)
    except OSError as exc:
        raise SettingsError(
            f"The login cannot be deleted: {exc.strerror or exc}.", remedy=f"Delete {exc.filename}."
        ) from exc
    if not there:
        print(f"There is no login for {one_line(args.server)}.", file=sys.stderr)
        return EXIT_FAILED
    ended = login is not None and await revoke(login)
    more = (
        "" if ended else " The service was not notified: you may have to revoke the access in your account there, too."
    )
    print(f"Logged out of {one_line(args.server)}.{more}", file=sys.stderr)
    return EXIT_OK
