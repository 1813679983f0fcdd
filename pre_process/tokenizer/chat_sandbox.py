"""Rendering Jinja templates that strangers wrote: no way out of the sandbox, no endless loop, no gigabyte of spaces.

jinja2's sandbox keeps a template away from Python's insides. What it does not do is to stop one that counts to a
million a million times or writes "a" * 10¹⁰. So here each turn of a loop, each call and each operation is a step, steps
and seconds are limited, and no operation may make something large out of two things that are not.
"""

import functools
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MAX_STEPS = 1_000_000
MAX_SECONDS = 5.0
MAX_SIZE = 100_000_000  # characters or items that one operation can make
_MAX_BITS = 10_000  # of a number
_MAX_TIMES = 1_000_000  # that one operation repeats something

# Operators, filters and methods whose result can be larger than what goes in.
_BY_NUMBER = {"*", "center", "ljust", "rjust", "zfill", "expandtabs", "indent", "wordwrap", "batch", "slice", "round"}
_BY_NUMBER |= {"tojson", "to_bytes"}
_BY_TEXT = {"replace", "join", "translate", "indent", "wordwrap", "batch", "tojson"}
_BY_FORMAT = {"%", "format", "format_map"}
_NUMBER = re.compile("[0-9]+")


class _Budget:
    """What is left for one rendering."""

    def __init__(self) -> None:
        self.steps, self.deadline = MAX_STEPS, time.monotonic() + MAX_SECONDS

    def take(self) -> None:
        self.steps -= 1
        if self.steps < 0 or time.monotonic() > self.deadline:
            raise SecurityError(f"it takes more than {MAX_STEPS:,} steps or {MAX_SECONDS:.0f} seconds")


_budget: ContextVar[_Budget] = ContextVar("budget")
_marks: ContextVar[tuple[str, str]] = ContextVar("marks")


def render(template: Any, variables: dict[str, Any], marks: tuple[str, str]) -> str:
    """The text of a template of `environment()`, its generation blocks between the two `marks`.

    Raises whatever the template raises, SecurityError for excess.
    """
    budget, before, parts, size = _budget.set(_Budget()), _marks.set(marks), list[str](), 0
    try:
        for part in _counted(template.generate(**variables)):
            parts.append(part)
            size += len(part)
            if size > MAX_SIZE:
                raise SecurityError(f"it writes more than {MAX_SIZE:,} characters")
        return "".join(parts)
    finally:
        _budget.reset(budget)
        _marks.reset(before)


def _counted(values: Iterable[Any]) -> Iterator[Any]:
    """The values of a loop; each is a step."""
    budget = _budget.get()
    for value in values:
        budget.take()
        yield value


def _check_sizes(name: str, operands: Sequence[Any]) -> None:
    """Refuse what is larger than MAX_SIZE, and the operation `name` if its result could be."""
    _budget.get().take()
    known: dict[int, int] = {}
    sizes = [1, *sorted(_size(value, known) for value in operands if not isinstance(value, int))]
    times = [1]
    if name in _BY_NUMBER | _BY_FORMAT:
        times += [abs(value) for value in operands if isinstance(value, int)]
    if name in _BY_FORMAT:
        times += [_multiplicity(pattern) for pattern in operands[:1] if isinstance(pattern, str)]
    if name in _BY_TEXT:
        times += sizes[-2:-1]
    if max(times) > _MAX_TIMES or max(times) * sizes[-1] > MAX_SIZE:
        raise SecurityError(f"one operation would make more than {MAX_SIZE:,} characters")


def _size(value: Any, known: dict[int, int]) -> int:
    """Characters and items in a value; what stands in two places is measured once and counted twice."""
    if not isinstance(value, list | tuple | dict):
        return len(value) if isinstance(value, str | range) else 1
    if id(value) not in known:
        items = (*value.keys(), *value.values()) if isinstance(value, dict) else value
        known[id(value)] = sum(1 + _size(item, known) for item in items)
    return known[id(value)]


def _multiplicity(pattern: str) -> int:
    """How often a pattern can repeat a value, or how wide it can make it: "%s%s", "%999999999d"."""
    return max(pattern.count("%") + pattern.count("{"), *(int(number[:12]) for number in _NUMBER.findall(pattern)), 1)


def _checked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def filter_(*args: Any, **kwargs: Any) -> Any:
        args = tuple(list(arg) if isinstance(arg, Iterator) else arg for arg in args)  # else its size is not known
        _check_sizes(name, (*args, *kwargs.values()))
        return function(*args, **kwargs)

    return filter_


class _Environment(ImmutableSandboxedEnvironment):
    """Counts and checks. Loops over x become loops over x|counted, and a ~ b becomes a|joined(b)."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Counting().visit(super()._parse(source, name, filename))
        return tree

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operation of the template on two values."""
        if isinstance(left, int) and isinstance(right, int) and operator != "%":
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            if bits > _MAX_BITS:
                raise SecurityError("a number becomes too large")
        elif operator == "+":
            _check_sizes(operator, ([left, right],))
        else:
            _check_sizes(operator, (left, *(right if isinstance(right, tuple) else (right,))))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 kwargs may hold "self"
        """A call in the template."""
        if not isinstance(__obj, Macro):  # what a macro does is checked inside
            method = getattr(__obj, "__wrapped__", __obj)  # the sandbox wraps str.format
            operands = (getattr(method, "__self__", ""), *args, *kwargs.values())
            _check_sizes(getattr(method, "__name__", ""), operands)
        _budget.get().take()
        return super().call(__context, __obj, *args, **kwargs)


class _Counting(NodeTransformer):
    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 the name the visitor looks for
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "counted", [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return nodes.Filter(node.nodes[0], "joined", node.nodes[1:], [], None, None, lineno=node.lineno)


class _Generation(Extension):
    """{% generation %} … {% endgeneration %}: what stands between them is the assistant's. Marked by two characters."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        """A call of `mark` with what stands in the block."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("mark"), [], [], body).set_lineno(line)

    def mark(self, caller: Macro) -> str:
        """The block's text between the two marks."""
        first, last = _marks.get()
        return f"{first}{caller()}{last}"


class _SafeNamespace(Namespace):
    """`namespace()` without names that begin with an underscore, which Python's insides have."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"a namespace has no place for {name!r}")
        super().__setitem__(name, value)


def environment() -> _Environment:
    """The environment that templates for Hugging Face's tokenizers expect."""
    made = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], finalize=_written)
    made.filters |= {"tojson": _to_json}
    made.filters = {name: _checked(name, function) for name, function in made.filters.items()}
    made.filters |= {"counted": _counted, "joined": _joined}
    for name in ("lipsum", "cycler", "joiner"):
        del made.globals[name]
    made.globals |= {
        "raise_exception": _raise,
        "strftime_now": lambda pattern: datetime.now().strftime(pattern),
        "dict": lambda *args, **kwargs: dict(*args, **kwargs),
        "namespace": _SafeNamespace,
    }
    return made


def _written(value: Any) -> Any:
    """A value that the template prints, unless it is too large to."""
    if not isinstance(value, str):
        _check_sizes("", (value,))
    return value


def _raise(message: str) -> None:
    raise TemplateError(message)


def _joined(*parts: Any) -> str:
    texts = list(map(str, parts))
    _check_sizes("", (texts,))
    return "".join(texts)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Plain JSON: jinja2's own filter would escape <, > and & for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
