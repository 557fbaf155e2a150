"""Write docs/command_line.md from the parsers of bt_plugin/cli: python docs/command_line.py."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from bt_plugin.cli import build_parser

PAGE = Path(__file__).with_suffix(".md")
_HEAD = """# Command line

`bt-plugin COMMAND --help` prints the same. `bt-plugin --version` prints the version. The commands `pretrain`, `knn`,
`linear`, `finetune`, `embed`, `bench` and `doctor` also run on several ranks, under `accelerate launch` or
`bt-plugin launch`, each with `-m bt_plugin COMMAND`. This page is written by `python docs/command_line.py`.

| exit code | meaning |
|---|---|
| 0 | The command is done. |
| 1 | `doctor` found an error, `pack` left out images, or the program failed with a traceback. |
| 2 | The user can correct the error. The message says how. |
| 75 | The run was asked to stop, and wrote a checkpoint. The same command resumes it. |
| 130 | Ctrl-C stopped the command. |
"""


def page() -> str:
    """Return the page's Markdown."""
    parser = build_parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    helps = {action.dest: action.help or "" for action in commands._choices_actions}
    parts = [_HEAD, "| command | what it does |\n|---|---|"]
    parts += [f"| [`{name}`](#{name}) | {_sentence(text)} |" for name, text in helps.items()]
    for name, command in commands.choices.items():
        parts += ["", f"## {name}", "", _sentence(command.description or helps[name])]
        parts += ["", "```", f"bt-plugin {name} {_usage(command)}".rstrip(), "```", "", *_rows(command)]
    return "\n".join(parts).rstrip() + "\n"


def _usage(command: argparse.ArgumentParser) -> str:
    """Return what follows the command's name. argparse's own usage differs between versions of Python."""
    forms = {None: "{}", "?": "[{}]", "*": "[{} ...]", "+": "{0} [{0} ...]"}
    words = [
        forms[action.nargs].format(action.metavar or action.dest)  # type: ignore[index]
        for action in command._actions
        if not action.option_strings
    ]
    has_options = any(action.option_strings and action.dest != "help" for action in command._actions)
    return " ".join([*["[OPTIONS]"] * has_options, *words])


def _rows(command: argparse.ArgumentParser) -> Iterator[str]:
    actions = [action for action in command._actions if not isinstance(action, argparse._HelpAction)]
    if not actions:
        return
    yield "| argument | meaning |"
    yield "|---|---|"
    for action in actions:
        name = ", ".join(action.option_strings) or str(action.metavar or action.dest)
        if action.option_strings and action.nargs != 0:
            name += f" {action.metavar or action.dest.upper()}"
        choices = f" One of: {', '.join(map(str, action.choices))}." if action.choices else ""
        yield f"| `{name}` | {_sentence(action.help or '')}{choices} |"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}".rstrip(".") + "."


if __name__ == "__main__":
    PAGE.write_text(page())
