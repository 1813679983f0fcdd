"""Wikitext to plain prose: what a reader of the article sees as running text, without tables, captions and sources.

Nested mark-up is taken from the inside out: a pattern matches only a construct that holds no other of its kind, and
is applied until nothing changes. The order matters: links go before templates, since both use "|", and a "|" inside
a link would otherwise look like the next argument of the template around it.
"""

import html
import re
from collections.abc import Callable, Iterator

from pre_process.corpus.templates import HOLE, template_text

# Nothing inside these is prose.
_HIDDEN = re.compile(
    r"<!--.*?-->|<ref\b[^<>]*/>|<ref\b.*?</ref>|__[A-Z]+__"
    r"|<(gallery|timeline|source|syntaxhighlight|imagemap|score|references)\b.*?</\1>",
    re.DOTALL | re.IGNORECASE,
)
_FORMULA = re.compile(r"<math\b[^>]*>(.*?)</math>", re.DOTALL)
_SIMPLE_FORMULA = re.compile(r"(?:[^\W_]|[\s+\-=(),./<>])*")
_EXTERNAL_LINK = re.compile(r"\[(?:https?:|ftp:)?//[^\s\]]+ *([^\]]*)\]")
_LINK = re.compile(r"\[\[((?:[^\[\]]|\[(?!\[)|\](?!\]))*)\]\]")
_NOT_PROSE_LINK = re.compile(r"\s*(?:file|image|media|category|[a-z]{2,3}(?:-[a-z]+)?)\s*:", re.IGNORECASE)
_TEMPLATE = re.compile(r"\{\{((?:[^{}]|\{(?!\{)|\}(?!\}))*)\}\}")
_TABLE = re.compile(r"\{\|(?:(?!\{\||\|\}).)*\|\}", re.DOTALL)
_SUPERSCRIPT = re.compile(r"<sup\b[^>]*>([\d+\-−–n]+)</sup>")
_SUPERSCRIPT_LETTERS = str.maketrans("0123456789+-−–n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁻ⁿ")
_LINE_BREAK = re.compile(r"<br\b[^>]*>|</?(?:p|poem|blockquote|div|center|li|ul|ol|hr)\b[^>]*>", re.IGNORECASE)
_WRAPPED_LINE = re.compile(r"^([^\n*#:;=|!{ ][^\n]*)\n(?=[^\n*#:;=|!{ ])", re.MULTILINE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_HEADING = re.compile(r"^(={2,6})\s*(.*?)\s*\1\s*$")

# Sections that list things about the article; their sub-sections go with them.
_SOURCES = re.compile(
    r"(?:see also|references?|external links?|further reading|(?:foot|end)?notes?|bibliography|citations?|sources?"
    r"|gallery|works cited|publications?|literature|filmography|discography|notes and references|selected works"
    r"|(?:general|cited|primary|secondary|other) (?:sources?|references?|works))\b.{0,30}",
    re.IGNORECASE,
)
_INVISIBLE = str.maketrans({"\u00a0": " ", "\u2009": " ", "\u202f": " ", "\t": " ", "\u00ad": "", "\u200b": "",
                            "\u200e": "", "\u200f": "", "\ufeff": ""})  # fmt: skip
_TIDY: list[tuple[re.Pattern[str], str]] = [
    (re.compile(r"'{2,}"), ""),  # bold and italics
    (re.compile(r"\(\s*(?:[,;:/–—·-]\s*)+"), "("),  # "(; born 1900)" where a pronunciation stood
    (re.compile(r"(?:\s*[,;:/–—·])+\s*\)"), ")"),
    (re.compile(r"([;:,])(?:\s*[;,])+"), r"\1"),
    (re.compile(r"\s*(?:\(\s*\)|\[\s*\])"), ""),
    (re.compile(r" +"), " "),
    (re.compile(r" (?=[,;:.!?)\]](?:\s|$))"), ""),
    (re.compile(r"(?<=[(\[]) "), ""),
]
_RESIDUE = re.compile(
    r"\[\[|\]\]|\{\{|\}\}|\{\||\|\}|\|\||^[|!{}]|\b(?:style|class|align|width|colspan) ?=|https?://|" + HOLE
)
_SENTENCE = re.compile(r"(?!See also)[^a-z].{29,}[.!?:…][\"'”’)\] ]*")
_SENTENCES = re.compile(r"(?=.{200})[^a-z].*[a-z]\. [A-Z].*")  # whose last one may lack its full stop


def plain_text(wikitext: str) -> str:
    """The prose of one article: paragraphs and headings, one a block, blank lines between; "" if there is none."""
    text = _HIDDEN.sub("", wikitext)
    text = _FORMULA.sub(_formula, text)
    text = _EXTERNAL_LINK.sub(r"\1", text)
    text = _from_inside_out(_LINK, _link_text, text)
    text = _from_inside_out(_TEMPLATE, lambda match: template_text(match[1]), text)
    text = _from_inside_out(_TABLE, lambda match: "\n", text)
    text = _SUPERSCRIPT.sub(lambda match: match[1].translate(_SUPERSCRIPT_LETTERS), text)
    text = _TAG.sub("", _LINE_BREAK.sub("\n", text))
    text = html.unescape(html.unescape(text)).translate(_INVISIBLE)  # twice: "&amp;nbsp;" occurs
    return "\n\n".join(_blocks(text))


def _from_inside_out(pattern: re.Pattern[str], replace: Callable[[re.Match[str]], str], text: str) -> str:
    changes = 1
    while changes:
        text, changes = pattern.subn(replace, text)
    return text


def _formula(match: re.Match[str]) -> str:
    """A formula that reads as plain text, like (1 − D) or x = 2; anything more leaves a hole."""
    formula = match[1].replace("{", "").replace("}", "").strip()
    return formula if _SIMPLE_FORMULA.fullmatch(formula) else HOLE


def _link_text(match: re.Match[str]) -> str:
    target, _, label = match[1].partition("|")
    if _NOT_PROSE_LINK.match(target):
        return ""
    return label or target.lstrip(":")


def _blocks(text: str) -> Iterator[str]:
    """Prose lines, and of headings and of lines that announce a list only those with prose right below them."""
    pending: dict[int, str] = {}  # level → heading not yet shown; level 9: "The kinds are:"
    sources_level = 9
    for line in _joined(text).split("\n"):
        block = _tidy(line.lstrip("*#:;> "))
        if heading := _HEADING.match(line):
            level = len(heading[1])
            if level <= sources_level:
                sources_level = level if _SOURCES.fullmatch(heading[2]) else 9
            pending = {above: title for above, title in pending.items() if above < level} | {level: _tidy(heading[2])}
        elif sources_level == 9 and _is_prose(block):
            if block.endswith(":") and len(block) < 200:
                pending[9] = block
                continue
            yield from pending.values()
            pending = {}
            yield block
        elif block:
            pending.pop(9, None)


def _joined(text: str) -> str:
    """One newline doesn't end a paragraph in wikitext, unless the next line starts with mark-up or is empty."""
    return _WRAPPED_LINE.sub(r"\1 ", text)


def _tidy(line: str) -> str:
    for pattern, replacement in _TIDY:
        line = pattern.sub(replacement, line)
    return line.strip()


def _is_prose(block: str) -> bool:
    return bool(_SENTENCE.fullmatch(block) or _SENTENCES.fullmatch(block)) and not _RESIDUE.search(block)
