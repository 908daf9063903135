"""The page about the command line, made of what the commands say of themselves."""

from __future__ import annotations

from collections.abc import Iterator

import click

HEAD = """\
# The command line

This page is made of the commands' own help: `python -m infs.cli.document > docs/cli.md` writes it anew.

Flags beat environment variables, which beat the configuration file; [configuration.md](configuration.md) lists its
keys. Answers and the banner go to standard output, everything else to standard error.
"""


def page(command: click.Command, name: str) -> str:
    """The whole page, in Markdown, for `command` and those below it."""
    return "\n".join([HEAD, *_sections(command, click.Context(command, info_name=name, **command.context_settings))])


def _sections(command: click.Command, ctx: click.Context) -> Iterator[str]:
    yield f"## {ctx.command_path}\n"
    yield f"```\n{ctx.command_path} {' '.join(command.collect_usage_pieces(ctx))}\n```\n"
    yield _plain(command.help) + "\n"
    yield from _options(command, ctx)
    yield from _examples(command.epilog)
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from _sections(below, click.Context(below, info_name=name, parent=ctx))


def _plain(text: str | None) -> str:
    """The paragraphs of `text`, each on its own line."""
    paragraphs = (text or "").strip().split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _options(command: click.Command, ctx: click.Context) -> Iterator[str]:
    options = [param for param in command.get_params(ctx) if isinstance(param, click.Option)]
    yield "| option | |\n|---|---|"
    for option in options:
        yield f"| `{_names(option)}` | {_cell(_plain(option.help))} |"
    yield ""


def _names(option: click.Option) -> str:
    names = ", ".join(option.opts)
    if option.secondary_opts:
        return f"{names} / {', '.join(option.secondary_opts)}"
    if option.is_flag:
        return names
    if isinstance(option.type, click.Choice):
        return _cell(f"{names} {'|'.join(option.type.choices)}")
    return _cell(f"{names} {option.metavar}")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _examples(epilog: str | None) -> Iterator[str]:
    """The blocks of an epilog, as they stand."""
    for block in (epilog or "").split("\b\n")[1:]:
        title, _, rest = block.strip().partition("\n")
        if rest.startswith("  "):
            yield f"{title}\n\n```\n{_dedented(rest)}\n```\n"
        else:
            yield block.strip().replace("\n", " \\\n") + "\n"


def _dedented(text: str) -> str:
    return "\n".join(line.removeprefix("  ") for line in text.splitlines())


if __name__ == "__main__":
    from infs.cli.commands import infs

    print(page(infs, "infs"), end="")
