"""The class of all commands: each takes the root's options after its own name too, and can quote a request type."""

from copy import copy
from typing import Any

import typer
from typer.core import TyperCommand, TyperOption

from gateway.cli.target import WHERE, is_written


class Command(TyperCommand):
    """A command that works wherever the root's options say."""

    takes: tuple[str, ...] = WHERE
    """The root's options that mean something to this command. The others are refused."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        spellings = ", ".join(f"--{name.replace('_', '-')}" for name in self.takes)
        self.epilog = self.epilog or f"Also takes {spellings}: see `vector-memory --help`."

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options of the function, those of its request type, and those of the root."""
        if whole := getattr(self.callback, "whole", None):  # see `fields.asks`
            app = typer.Typer(add_completion=False)
            app.command()(whole())
            built = typer.main.get_command(app)
            self.params, self.callback = built.params, built.callback
        own = super().get_params(ctx)
        taken = {spelling for option in own for spelling in option.opts}
        return [*own, *(_hidden(one) for one in ctx.find_root().command.params if _is_free(one, taken))]

    def invoke(self, ctx: Any) -> Any:
        """Run the command, unless an option of the root means nothing to it."""
        for name in WHERE:
            if name not in self.takes and is_written(ctx.find_root(), name):
                ctx.fail(f"{ctx.info_name} does not take --{name.replace('_', '-')}.")
        return super().invoke(ctx)


def taking(*names: str) -> type[Command]:
    """Return the class of commands that take only these of the root's options."""
    return type("Taking", (Command,), {"takes": names})


def _is_free(option: Any, taken: set[str]) -> bool:
    return option.name in WHERE and taken.isdisjoint(option.opts)


def _hidden(option: TyperOption) -> TyperOption:
    """Return a copy of a root's option that passes its value on to the root."""
    hidden = copy(option)
    hidden.hidden, hidden.expose_value, hidden.envvar, hidden.callback = True, False, None, _pass_to_root
    return hidden


def _pass_to_root(ctx: Any, option: Any, value: Any) -> Any:
    if is_written(ctx, option.name):
        root = ctx.find_root()
        root.params[option.name] = value
        root.set_parameter_source(option.name, ctx.get_parameter_source(option.name))
    return value
