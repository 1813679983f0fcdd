"""Floor 5. Typed settings ↔ command line ↔ TOML.

A command's settings are one msgspec.Struct; groups of settings are structs inside it. A field is a flag of the same
name (`d_model` → `--d-model`), its docstring is the flag's help, and its group is a table of the TOML file. What wins,
from weak to strong: the preset, the TOML file, the command line.
"""

import argparse
import contextlib
import difflib
import io
import math
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

Settings = TypeVar("Settings", bound=msgspec.Struct)


class ConfigError(ValueError):
    """A setting that does not exist or cannot have this value: one line that says which and what to do."""


def from_command_line(
    presets: Mapping[str, Settings],
    argv: Sequence[str] | None,
    *,
    prog: str,
    about: str,
    bare: Mapping[str, str] | None = None,
    base: Settings | None = None,
) -> Settings:
    """Resolve settings from `--preset`, `--config` and one flag for each field. The first preset is the default.

    bare  flags that may stand without a value, and the value that they then have
    base  settings of an earlier run, in place of the preset's
    Raises ConfigError.
    """
    chosen = peek(argv, "preset", "config", bare=bare)
    table = read_toml(Path(chosen["config"])) if chosen["config"] else {}
    defaults = from_preset(presets, chosen["preset"], table) if base is None else changed(base, table)
    argv = _with_values(_given(argv), bare or {})
    return parse_flags(type(defaults), argv, prog=prog, about=about, default=defaults)


def peek(argv: Sequence[str] | None, *names: str, bare: Mapping[str, str] | None = None) -> dict[str, str | None]:
    """The values of a few flags, before what the others may be is known; None for one that isn't given."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in names:
        early.add_argument(f"--{name}", nargs="?")
    chosen, _ = early.parse_known_args(_with_values(_given(argv), bare or {}))
    return vars(chosen)


def _given(argv: Sequence[str] | None) -> Sequence[str]:
    return sys.argv[1:] if argv is None else argv


def parse_flags(
    kind: type[Settings], argv: Sequence[str] | None, *, prog: str, about: str, default: Settings | None = None
) -> Settings:
    """One flag for each field of `kind`; a field without a default is a positional argument. Raises ConfigError.

    `--help` prints and ends the program. What tyro would say in a box of several lines is said in one.
    """
    import tyro

    given: dict[str, Any] = {} if default is None else {"default": default}
    markers = (tyro.conf.OmitArgPrefixes, tyro.conf.PositionalRequiredArgs)
    with contextlib.redirect_stderr(io.StringIO()) as box:
        try:
            settings: Settings = tyro.cli(kind, prog=prog, description=about, args=argv, config=markers, **given)
        except SystemExit as stop:
            if stop.code != 2:
                raise
            raise ConfigError(f"{_without_box(box.getvalue())}; {prog} --help explains every flag") from None
    return checked(settings)


def from_preset(presets: Mapping[str, Settings], name: str | None, overrides: dict[str, Any]) -> Settings:
    """A preset with a nested dict of changes on top; `name` beats the dict's, else the first. Raises ConfigError."""
    name = overrides.get("preset", next(iter(presets))) if name is None else name
    if not isinstance(name, str) or name not in presets:
        raise ConfigError(
            f"no preset is called {name!r}{_nearest(str(name), presets)} (there are {', '.join(presets)})"
        )
    return changed(presets[name], {**overrides, "preset": name})


def changed(settings: Settings, overrides: dict[str, Any]) -> Settings:
    """The settings with a nested dict of changes on top. Raises ConfigError."""
    _refuse_unknown(overrides, type(settings), ())
    return _convert(_merge(msgspec.to_builtins(settings), overrides), type(settings))


def differences(before: msgspec.Struct, after: msgspec.Struct) -> dict[str, tuple[Any, Any]]:
    """Dotted path → (before, after) for each setting that differs."""
    old, new = (dict(leaves(msgspec.to_builtins(settings))) for settings in (before, after))
    return {path: (old.get(path), new[path]) for path in new if old.get(path) != new[path]}


def checked(settings: Settings) -> Settings:
    """The same settings, every bound in their types verified: tyro checks the kind of a value, not its range."""
    return _convert(msgspec.to_builtins(settings), type(settings))


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as nested dicts. Raises ConfigError naming the file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a TOML file: {error}") from None


def to_toml(settings: msgspec.Struct) -> str:
    """The settings as TOML that `--config` reads back; TOML has no null, so a setting that is None is left out."""
    import tomli_w

    return tomli_w.dumps(_without_none(msgspec.to_builtins(settings)))


def _convert(values: dict[str, Any], kind: type[Settings]) -> Settings:
    for path, value in leaves(values):
        if isinstance(value, float) and not math.isfinite(value):  # no bound of msgspec's stops infinity
            raise ConfigError(f"{_flag(path)}: {value} is not a finite number")
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$.")
        path = path.rstrip("`")
        given = dict(leaves(values)).get(path)
        got = f", got {given}" if isinstance(given, int | float) and ", got" not in reason else ""
        raise ConfigError(f"{_flag(path)}: {reason}{got}" if path else reason) from None


def _with_values(argv: Sequence[str], bare: Mapping[str, str]) -> list[str]:
    """Every flag of `bare` that stands at the end or before another flag gets its value."""
    following = [*argv[1:], "--"]
    pairs = zip(argv, following, strict=False)
    return [f"{a}={bare[a]}" if a in bare and b.startswith("--") else a for a, b in pairs]


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of everything that is no table."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _flag(path: str) -> str:
    return "--" + path.rpartition(".")[2].replace("_", "-")


def _merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    both = {k: _merge(base[k], v) for k, v in changes.items() if isinstance(v, dict) and isinstance(base.get(k), dict)}
    return {**base, **changes, **both}


def _refuse_unknown(values: Mapping[str, Any], kind: type[msgspec.Struct], path: tuple[str, ...]) -> None:
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
    for key, value in values.items():
        if key not in fields:
            known = dict(_paths(kind, "".join(f"{group}." for group in path)))
            raise ConfigError(f"unknown setting {'.'.join((*path, key))!r}{_nearest(key, known)}")
        if isinstance(value, dict) and _is_group(fields[key]):
            _refuse_unknown(value, fields[key], (*path, key))


def _paths(kind: type[msgspec.Struct], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(last name, dotted path) of every setting."""
    for field in msgspec.structs.fields(kind):
        if _is_group(field.type):
            yield from _paths(field.type, f"{prefix}{field.name}.")
        else:
            yield field.name, prefix + field.name


def _is_group(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    found = difflib.get_close_matches(name, known, n=1)
    if not found:
        return ""
    meant = known[found[0]]
    return f": did you mean {meant if isinstance(meant, str) else found[0]!r}?"


def _without_none(values: Any) -> Any:
    if not isinstance(values, dict):
        return values
    return {key: _without_none(value) for key, value in values.items() if value is not None}


def _without_box(text: str) -> str:
    """What tyro's box says, in one line: the message, and of the flags it proposes the nearest."""
    lines = [line.strip("│ ") for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]
    has_frame = any(line.startswith("╭") for line in lines)  # without one, a rule divides title and message
    blocks: list[list[str]] = [[]]
    for line in lines:
        if line and not line.strip("─-"):
            blocks.append([])
        elif not line.startswith(("╭", "╰")):
            blocks[-1].append(line)
    message, *more = blocks if has_frame else blocks[1:]
    proposed = [line.split()[0].rstrip(",") for block in more for line in block if line.startswith("--")]
    said = " ".join(message).strip(" .").removeprefix("Error parsing ")
    return f"{said} (did you mean {proposed[0]}?)" if proposed and "nrecognized" in said else said
