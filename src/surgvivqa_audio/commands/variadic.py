"""Options that take several values: ``--videos 002-001 002-002`` as well as the option repeated."""

from __future__ import annotations

from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperOption


class VariadicCommand(TyperCommand):
    """A command whose repeatable options accept a run of values.

    Values at the end of a run fill positional arguments that are still missing, so that
    ``fetch frames --videos 002-001 002-002 DATA`` finds its folder.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Rewrite runs of values to repeated options, then parse as usual."""
        return super().parse_args(ctx, self._repeated(ctx, args))

    def _repeated(self, ctx: Any, args: list[str]) -> list[str]:
        options = {
            name: option
            for option in self.get_params(ctx)
            if isinstance(option, TyperOption)
            for name in (*option.opts, *option.secondary_opts)
        }
        needed = sum(isinstance(each, TyperArgument) and each.required for each in self.get_params(ctx))
        plain: list[str] = []  # everything outside the runs
        runs: list[tuple[int, str, list[str]]] = []  # (place in plain, option, values)
        positional = 0
        place = 0
        while place < len(args):
            token = args[place]
            place += 1
            option = options.get(token)
            if token == "--":
                positional += len(args) - place
                plain += args[place - 1 :]
                break
            if option is not None and option.multiple:
                values = []
                while place < len(args) and not args[place].startswith("-"):
                    values.append(args[place])
                    place += 1
                runs.append((len(plain), token, values))
                continue
            plain.append(token)
            if option is not None and not option.is_flag and not option.count:
                plain += args[place : place + 1]
                place += 1
            elif option is None and not token.startswith("-"):
                positional += 1
        return self._merge(plain, runs, max(0, needed - positional))

    @staticmethod
    def _merge(plain: list[str], runs: list[tuple[int, str, list[str]]], missing: int) -> list[str]:
        merged = list(plain)
        for place, name, values in reversed(runs):
            count = min(missing, max(0, len(values) - 1))
            missing -= count
            kept, rest = values[: len(values) - count], values[len(values) - count :]
            # An option without any value stays as it is: the parser then says what is missing.
            repeated = [part for value in kept for part in (name, value)] or [name]
            merged[place:place] = [*repeated, *rest]
        return merged
