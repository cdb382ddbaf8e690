"""Starts bubblewrap, as a script and in place of itself, with files and folders that no link leads away from.

A server that runs may turn a folder of the workspace into a link while another one is started, and bubblewrap would
mount what the link leads to. So the sources of mounts are opened here without following a link, and mounted as what was
opened. The first argument says which of the words behind it are such sources (`3,6`: the first one is 0), as a word may
come from others. What does not exist is left out.
"""

import os
import resource
import stat
import sys


def main(sources: str, words: list[str]) -> None:
    """Replace this process by the program, with descriptors in place of the sources."""
    assert sys.platform == "linux"
    places = [int(place) for place in sources.split(",")]
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = len(places) + 64  # with what else is open
    if limit < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, most) if most > 0 else wanted, most))
    for place in reversed(places):
        try:
            words[place] = str(_open(words[place]))
        except FileNotFoundError:
            del words[place - 1 : place + 2]
        except OSError as exc:
            sys.exit(f"{words[place]}: {exc.strerror}")
    os.execv(words[0], words)


def _open(path: str) -> int:
    opened = os.open("/", os.O_PATH)
    for part in filter(None, path.split("/")):
        holder, opened = opened, os.open(part, os.O_PATH | os.O_NOFOLLOW, dir_fd=opened)
        os.close(holder)
        if stat.S_ISLNK(os.fstat(opened).st_mode):
            raise OSError(0, "was changed while the sandbox was set up, and is a link")
    os.set_inheritable(opened, True)
    return opened


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
