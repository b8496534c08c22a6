"""The command `mtseg`. A command is a file of this package with a function `command`; it imports what it needs when it
runs, so that `mtseg --help` is fast."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

import mtseg
from mtseg.cli import export, info, predict, relabel, serve
from mtseg.core.errors import as_user_error, print_any_text
from mtseg.core.signals import output_flushed, without_traceback

NUMBERS = ("int", "float", "int range", "float range")  # Typer's names of types


class Plain:
    """Help shows `FILE`, `SOURCE...` and `NUMBER` in place of Typer's `{FILE}`, `{SOURCE}...` and `<int range>`."""

    def get_params(self, ctx: typer.Context) -> list:
        found = super().get_params(ctx)
        for one in found:
            if isinstance(one, TyperArgument):
                one.display_type_rich = lambda ctx: None  # its name says it
            elif one.metavar is None:
                kind = one.display_type(ctx).strip("<>")
                one.metavar = "NUMBER" if kind in NUMBERS else {"bool": "", "str": "NAME"}.get(kind, kind)
        return found


class Group(Plain, TyperGroup):
    pass


class Command(Plain, TyperCommand):
    def collect_usage_pieces(self, ctx: typer.Context) -> list[str]:
        arguments = [one for one in self.get_params(ctx) if isinstance(one, TyperArgument)]
        names = [one.metavar + "..." * (one.nargs != 1) for one in arguments]
        required = [name if one.required else f"[{name}]" for one, name in zip(arguments, names, strict=True)]
        return ["[OPTIONS]", *required]

    def invoke(self, ctx: typer.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # Typer would end without a word
            print("error: interrupted", file=sys.stderr)
            raise typer.Exit(130) from None


app = typer.Typer(
    name="mtseg",
    cls=Group,
    help="Predict with a trained model whose instances carry several labels.",
    epilog="Exit codes: 0 done, 1 an error, 130 interrupted; `mtseg predict` and `mtseg relabel` have 2 too.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("predict", cls=Command)(predict.command)
app.command("info", cls=Command)(info.command)
app.command("export", cls=Command)(export.command)
app.command("relabel", cls=Command)(relabel.command)
app.command("serve", cls=Command)(serve.command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"mtseg {mtseg.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command of `sys.argv`, or of `arguments`, and exit. A mistake of the user is one line on stderr and exit
    code 1."""
    print_any_text()
    without_traceback()
    with output_flushed():
        code = _run(arguments)
    sys.exit(code)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        return app(arguments, prog_name="mtseg", standalone_mode=False) or 0
    except typer.TyperException as error:
        if not error.format_message():  # `mtseg` alone has printed its help
            return 1
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "mtseg"
        return _fail(f"{error.format_message().rstrip('.')}: see `{command} --help`")
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if not (line := as_user_error(error)):
            raise
        return _fail(str(line))


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1
