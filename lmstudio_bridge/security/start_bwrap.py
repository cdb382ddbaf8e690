"""Starts bubblewrap, as a script and in place of itself, with files and folders that no link leads away from.

A server that runs may turn a folder of the workspace into a link while another one is started, and bubblewrap would
mount what the link leads to. So `--bind-held SOURCE PLACE`, and `--ro-bind-held`, are opened here without following a
link, and mounted as what was opened. What does not exist is left out.
"""

import os
import resource
import stat
import sys

_OPTIONS = {"--bind-held": "--bind-fd", "--ro-bind-held": "--ro-bind-fd"}


def main(words: list[str]) -> None:
    """Replace this process by the program, with the options that it knows."""
    assert sys.platform == "linux"
    end = words.index("--")
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit < len(words):  # each of them may be opened
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(len(words), most) if most > 0 else len(words), most))
    made, left = [], words[:end]
    while left:
        word = left.pop(0)
        if word not in _OPTIONS:
            made.append(word)
            continue
        source, place = left.pop(0), left.pop(0)
        try:
            made += [_OPTIONS[word], str(_open(source)), place]
        except FileNotFoundError:
            continue
        except OSError as exc:
            sys.exit(f"{source} was changed while the sandbox was set up: {exc.strerror}")
    os.execv(made[0], [*made, *words[end:]])


def _open(path: str) -> int:
    opened = os.open("/", os.O_PATH)
    for part in path.split("/")[1:]:
        holder, opened = opened, os.open(part, os.O_PATH | os.O_NOFOLLOW, dir_fd=opened)
        os.close(holder)
        if stat.S_ISLNK(os.fstat(opened).st_mode):
            raise OSError(0, "it is a link")
    os.set_inheritable(opened, True)
    return opened


if __name__ == "__main__":
    main(sys.argv[1:])
