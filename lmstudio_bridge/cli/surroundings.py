"""What a command finds around it: the settings in the environment, and the folder of the shell."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from lmstudio_bridge.errors import SettingsError
from lmstudio_bridge.settings import Settings, read_settings

if TYPE_CHECKING:
    from lmstudio_bridge.settings import Surroundings


def settings_here() -> Settings:
    """The settings of this process's environment.

    Raises:
        SettingsError: One has a value that cannot be used, or the folder is gone.
    """
    return read_settings(os.environ, cwd=current_folder())


def surroundings_here() -> Surroundings:
    """Folder and environment of this process.

    Raises:
        SettingsError: The folder is gone.
    """
    from lmstudio_bridge.settings import Surroundings

    return Surroundings(current_folder(), os.environ)


def current_folder() -> Path:
    """The folder of the shell.

    Raises:
        SettingsError: It is gone, or not for us.
    """
    try:
        return Path.cwd()
    except OSError as exc:
        raise SettingsError(
            f"The folder that the bridge was started in can't be used: {exc.strerror}.",
            remedy="Start it in a folder that exists and that you may enter.",
        ) from exc
