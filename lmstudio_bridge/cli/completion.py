"""`lmstudio-bridge completion`: what lets bash, zsh and fish complete our command lines, made from the parser itself.

The scripts are whole: pressing TAB starts no Python.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, get_args

from lmstudio_bridge.cli.arguments import EXIT_OK, Commands
from lmstudio_bridge.cli.help import add_command, commands_of

if TYPE_CHECKING:
    from lmstudio_bridge.security.redact import Redactor

Shell = Literal["bash", "zsh", "fish"]
Level = tuple[str, argparse.ArgumentParser]  # the words of a command ("", "runs", "runs show") and its parser


def add_parser(commands: Commands) -> None:
    """Add what the command takes."""
    parser = add_command(
        commands,
        "completion",
        "print what makes a shell complete the command line",
        """
        Prints a script for the shell: commands, options, and values where there are a few to choose from.
        """,
        examples=(
            ('eval "$(lmstudio-bridge completion bash)"', "in ~/.bashrc"),
            ('eval "$(lmstudio-bridge completion zsh)"', "in ~/.zshrc, after compinit"),
            ("lmstudio-bridge completion fish > ~/.config/fish/completions/lmstudio-bridge.fish", "once"),
        ),
        exit_codes={0: "printed"},
        settings=False,
    )
    parser.add_argument("shell", choices=get_args(Shell), help="which shell")
    parser.set_defaults(commands=commands)


def run(args: argparse.Namespace, _: Redactor) -> int:
    """Print the script."""
    top = argparse.ArgumentParser(prog="lmstudio-bridge")
    top.add_argument("--version", action="store_true", help="show the version and exit")
    levels = [("", top), *_levels(args.commands)]
    makers = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    print(makers[args.shell](levels, _helps(args.commands, levels)), end="")
    return EXIT_OK


def _levels(commands: Commands, above: str = "") -> Iterator[Level]:
    """Each command, and the commands below it."""
    for name, parser in commands.choices.items():
        words = f"{above} {name}".strip()
        yield words, parser
        for below in commands_of(parser):
            yield from _levels(below, words)


def _helps(commands: Commands, levels: list[Level]) -> dict[str, str]:
    """One line about each command, by its words."""
    found: dict[str, str] = {}
    for above, action in [("", commands), *((words, each) for words, parser in levels for each in commands_of(parser))]:
        for choice in action._choices_actions:  # argparse keeps them nowhere else
            found[f"{above} {choice.dest}".strip()] = choice.help or ""
    return found


def _children(words: str, levels: list[Level]) -> list[str]:
    """The names of the commands right below one."""
    return [each.rpartition(" ")[2] for each, _ in levels if each and each.rpartition(" ")[0] == words]


def _options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if action.option_strings and action.help != argparse.SUPPRESS]


def _long(action: argparse.Action) -> str:
    return next((option for option in action.option_strings if option.startswith("--")), action.option_strings[0])


def _values(action: argparse.Action) -> list[str]:
    return [str(choice) for choice in action.choices or ()]


def _positional_values(parser: argparse.ArgumentParser) -> list[str]:
    return [
        value
        for action in parser._actions
        if not action.option_strings and not isinstance(action, argparse._SubParsersAction)
        for value in _values(action)
    ]


def _takes_path(action: argparse.Action) -> bool:
    return getattr(action.type, "__name__", "") == "Path"


def _value_cases(levels: list[Level], *, files: str, choose: str) -> Iterator[str]:
    """Arms of a `case` over the command and the word before: what can follow an option that takes a value.

    `files` and `choose` are the shell's commands for files and for a `{}` of words.
    """
    arms: dict[str, list[str]] = {}
    for words, parser in levels:
        for action in _options(parser):
            if action.nargs != 0:
                values = choose.format(shlex.join(_values(action))) if action.choices else ":"  # only the user knows
                reply = files if _takes_path(action) else values
                arms.setdefault(reply, []).extend(shlex.quote(f"{words} {option}") for option in action.option_strings)
    for reply, patterns in arms.items():
        yield f"    {'|'.join(patterns)}) {reply}; return ;;"


_WALK = """\
  local at= word i
  for ((i = {first}; i < {current}; i++)); do
    word={word}
    case "$at $word" in
      {known}) at="${{at:+$at }}$word" ;;
    esac
  done
"""


def _known(levels: list[Level]) -> str:
    return "|".join(
        shlex.quote(f"{words.rpartition(' ')[0]} {words.rpartition(' ')[2]}") for words, _ in levels if words
    )


def _bash(levels: list[Level], _: dict[str, str]) -> str:
    walk = _WALK.format(first="1", current="COMP_CWORD", word="${COMP_WORDS[i]}", known=_known(levels))
    lines = ["_lmstudio_bridge() {", walk.rstrip(), '  local cur="${COMP_WORDS[COMP_CWORD]}" words=']
    lines.append('  case "$at ${COMP_WORDS[COMP_CWORD-1]}" in')
    lines += _value_cases(
        levels, files='COMPREPLY=($(compgen -f -- "$cur"))', choose='COMPREPLY=($(compgen -W "{}" -- "$cur"))'
    )
    lines += ["  esac", '  case "$at" in']
    for words, parser in levels:
        offered = [*_children(words, levels), *_positional_values(parser), *map(_long, _options(parser))]
        lines.append(f"    {shlex.quote(words)}) words={shlex.quote(' '.join(offered))} ;;")
    lines += ["  esac", '  COMPREPLY=($(compgen -W "$words" -- "$cur"))', "}"]
    return "\n".join([*lines, "complete -F _lmstudio_bridge lmstudio-bridge", ""])


def _zsh(levels: list[Level], helps: dict[str, str]) -> str:
    walk = _WALK.format(first="2", current="CURRENT", word="${words[i]}", known=_known(levels))
    lines = ["#compdef lmstudio-bridge", "_lmstudio_bridge() {", walk.rstrip(), "  local -a offered options"]
    lines.append('  case "$at ${words[CURRENT-1]}" in')
    lines += _value_cases(levels, files="_files", choose="compadd -- {}")
    lines += ["  esac", '  case "$at" in']
    for words, parser in levels:
        offered = [(name, helps[f"{words} {name}".strip()]) for name in _children(words, levels)]
        offered += [(value, "") for value in _positional_values(parser)]
        options = [(_long(action), action.help or "") for action in _options(parser)]
        lines.append(f"    {shlex.quote(words)})")
        lines += [f"      {name}=({_described(items)})" for name, items in (("offered", offered), ("options", options))]
        lines.append("      ;;")
    lines += ["  esac", "  _describe -t commands 'command' offered", "  _describe -t options 'option' options", "}"]
    # As a file in fpath it is called by the completion system; from eval it registers itself.
    lines.append('if [ "$funcstack[1]" = "_lmstudio_bridge" ]; then _lmstudio_bridge "$@"')
    return "\n".join([*lines, "else compdef _lmstudio_bridge lmstudio-bridge; fi", ""])


def _described(items: list[tuple[str, str]]) -> str:
    return " ".join(shlex.quote(f"{name}:{text}" if text else name) for name, text in items)


def _fish(levels: list[Level], helps: dict[str, str]) -> str:
    known = " ".join(
        _fish_quoted(f"{words.rpartition(' ')[0]} {words.rpartition(' ')[2]}") for words, _ in levels if words
    )
    lines = [
        "function __lmstudio_bridge_at",
        "    set -l at ''",
        "    for word in (commandline -opc)[2..-1]",
        '        switch "$at $word"',
        f"            case {known}",
        '                set at (string trim "$at $word")',
        "        end",
        "    end",
        '    test "$at" = "$argv"',
        "end",
        "complete -c lmstudio-bridge -f",
    ]
    for words, parser in levels:
        here = f"complete -c lmstudio-bridge -n {_fish_quoted(f'__lmstudio_bridge_at {words}'.strip())}"
        for name in _children(words, levels):
            about = helps[f"{words} {name}".strip()]
            lines.append(f"{here} -a {name} -d {_fish_quoted(about)}")
        lines += [f"{here} -a {_fish_quoted(value)}" for value in _positional_values(parser)]
        for action in _options(parser):
            kind = "" if action.nargs == 0 else " -rF" if _takes_path(action) else " -x"
            values = f" -a {_fish_quoted(' '.join(_values(action)))}" if kind and _values(action) else ""
            lines.append(f"{here}{_fish_names(action)}{kind}{values} -d {_fish_quoted(action.help or '')}")
    return "\n".join([*lines, ""])


def _fish_names(action: argparse.Action) -> str:
    names = action.option_strings
    return "".join(f" -l {name[2:]}" if name.startswith("--") else f" -s {name[1:]}" for name in names)


def _fish_quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
