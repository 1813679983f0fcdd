"""What a wikitext template {{name|argument|…}} puts into the sentence around it.

Most templates of an article carry no prose (sources, boxes, notes to editors) and leave nothing. The few that do are
below, counted in the embedded excerpt: what isn't in these tables occurs there at most twice in running text.
"""

from collections.abc import Callable

HOLE = "\ufffc"  # "object replacement character": stands where a sentence lost something it can't be read without

_UNITS = {
    **{"C": "°C", "F": "°F", "m2": "m²", "km2": "km²", "m3": "m³", "km3": "km³", "kg/m3": "kg/m³"},
    **{"sqft": "sq ft", "sqmi": "sq mi", "cuft": "cu ft", "cumi": "cu mi", "usgal": "US gal"},
    **{"long ton": "long tons", "Moilbbl": "million barrels"},
}
_RANGE_WORDS = {"-": "–", "–": "–", "to": " to ", "and": " and ", "or": " or ", "by": " by ", "x": " × ", "+/-": " ± "}


def template_text(source: str) -> str:
    """The text for what stands between "{{" and "}}", inner templates already replaced; "" for most of them."""
    name, *arguments = (part.strip() for part in source.split("|"))
    name = name.lower().replace("_", " ")
    if name in _CONSTANTS:
        return _CONSTANTS[name]
    if name == "as of" and "lc=y" in arguments:
        return f"as of {arguments[0]}"
    positional = [argument for argument in arguments if not _is_named(argument)]
    show = _SHOWN.get(name, _first if name.startswith("lang-") else None)
    return show(positional) if show and positional else ""


def _is_named(argument: str) -> bool:
    key, equals, _ = argument.partition("=")
    return bool(equals) and key.strip().replace(" ", "").isalnum()


def _first(arguments: list[str]) -> str:
    return arguments[0]


def _second(arguments: list[str]) -> str:
    return arguments[1] if len(arguments) > 1 else ""


def _last(arguments: list[str]) -> str:
    return arguments[-1]


def _converted(arguments: list[str]) -> str:
    """{{convert|5|to|10|km|mi}} → 5 to 10 km"""
    quantity, rest = arguments[0], arguments[1:]
    while len(rest) > 1 and rest[0] in _RANGE_WORDS:
        quantity += _RANGE_WORDS[rest[0]] + rest[1]
        rest = rest[2:]
    return f"{quantity} {_UNITS.get(rest[0], rest[0])}" if rest else quantity


def _fraction(arguments: list[str]) -> str:
    """{{frac|3}} → 1/3, {{frac|3|2}} → 3/2, {{frac|1|3|2}} → 1 3/2"""
    *whole, numerator, denominator = ["1", *arguments] if len(arguments) == 1 else arguments
    return " ".join([*whole, f"{numerator}/{denominator}"])


def _japanese(arguments: list[str]) -> str:
    """{{nihongo|bayonet|銃剣|jūken}} → bayonet (jūken)"""
    english, romanized = arguments[0], arguments[2] if len(arguments) > 2 else ""
    return f"{english} ({romanized})" if english and romanized else english or romanized


def _ship(prefix: str) -> Callable[[list[str]], str]:
    return lambda arguments: f"{prefix} {arguments[0]}"


_CONSTANTS = {
    **{"mdash": "—", "mdashb": "—", "ndash": "–", "snd": " –", "snds": " – ", "spaced ndash": " – "},
    **{"nbsp": " ", "thinsp": " ", "spaces": " ", "·": "·", "dot": "·", "=": "=", "eqm": "="},
    **{"'": "'", "'s": "'s", "' \"": "' \"", '-"': '"'},
}

_SHOWN: dict[str, Callable[[list[str]], str]] = {
    **dict.fromkeys(["small", "smaller", "midsize", "big", "nowrap", "nobold", "longitem", "sc", "sup"], _first),
    **dict.fromkeys(["angbr", "flag", "ipa", "keypress", "tooltip", "val", "vanchor", "vr"], _first),
    **dict.fromkeys(["quote", "blockquote", "cquote"], _first),
    **dict.fromkeys(["lang", "rtl-lang", "script"], _second),
    **dict.fromkeys(["transl", "unicode"], _last),
    **dict.fromkeys(["convert", "cvt"], _converted),
    **dict.fromkeys(["frac", "sfrac"], _fraction),
    **{ship: _ship(ship.upper()) for ship in ("hms", "mv", "uss")},
    "as of": lambda arguments: f"As of {arguments[0]}",
    "chem": "".join,
    "circa": lambda arguments: f"c. {arguments[0]}",
    "e": lambda arguments: f"×10<sup>{arguments[0]}</sup>",
    "nihongo": _japanese,
    "simplenuclide2": "-".join,
}
