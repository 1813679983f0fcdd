"""A chat as one text for a model: messages through a Jinja template → text, ids, and which tokens the assistant wrote.

The template decides how roles are written. What it writes itself may hold special tokens; what people wrote may not:
"<|im_end|>" in a message is plain text, as everywhere here, unless the messages are trusted. For that, and to find what
the assistant wrote, messages get invisible marks before the template is rendered, which are taken out again afterwards.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from reprlib import repr as short
from typing import Any, NamedTuple

import numpy as np

from pre_process.tokenizer.added_tokens import split_specials
from pre_process.tokenizer.byte_level import utf8
from pre_process.tokenizer.chat_marks import (
    ChatError,
    Marks,
    Message,
    assistant_marked,
    assistant_spans,
    broken,
    unused_marks,
)
from pre_process.tokenizer.formats import TextTokenizer
from pre_process.tokenizer.json_files import faults_named, read_json, read_text, typed
from pre_process.tokenizer.tokenizer import Tokenizer
from pre_process.tokenizer.vocabulary import TokenizerError

CHATML = (
    "{% for message in messages %}"
    "{% if message.role not in ('system', 'user', 'assistant') %}"
    "{{ raise_exception('there is no role ' ~ message.role) }}{% endif %}"
    "<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ message.content }}<|im_end|>{% endif %}{{ '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class EncodedChat(NamedTuple):
    """A chat of n tokens."""

    text: str
    ids: np.ndarray  # (n,) int32
    assistant: np.ndarray  # (n,) bool, True = written by the assistant, the token that ends its turn included


class ChatTemplate:
    """A template in Jinja, as Hugging Face's models carry it; `variables` (bos_token, …) are there in each rendering.

    Raises ChatError for one that is not valid Jinja.
    """

    def __init__(self, source: str, **variables: Any) -> None:
        from jinja2 import TemplateError

        from pre_process.tokenizer.chat_sandbox import environment

        self.source, self.variables = source, variables
        try:
            self._template = environment().from_string(source)
        except (TemplateError, RecursionError) as error:
            raise ChatError(f"the chat template is not valid: {_one_line(error)}") from None

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False, **variables: Any) -> str:
        """The text, as `transformers` gives it. `variables` go to the template: tools, documents, …

        Raises ChatError: messages without role or content, a template that refuses them, fails, or does not end.
        """
        marks = unused_marks(self.source, messages, variables)
        return marks.removed_from(self._render(_checked(messages), add_generation_prompt, variables, marks))

    def encode(
        self,
        messages: Sequence[Message],
        tokenizer: TextTokenizer,
        *,
        add_generation_prompt: bool = False,
        trust_messages: bool = False,
        **variables: Any,
    ) -> EncodedChat:
        """Text, ids and mask. With `trust_messages`, special tokens that stand in messages or tools are special too.

        What the assistant wrote is what the template puts between {% generation %} and {% endgeneration %}; without
        such blocks, the content of its messages and a special token right behind it. A token that is only partly
        the assistant's counts as its own. Raises ChatError as `render` does, and for a template that changes the
        assistant's text so much that it is not found; TokenizerError for a tokenizer that changes the text.
        """
        checked, marks = _checked(messages), unused_marks(self.source, messages, variables)
        text = marks.removed_from(self._render(checked, add_generation_prompt, variables, marks))
        names = () if trust_messages else [name for name in tokenizer.special_tokens if len(name) > 1]
        plain = broken(checked, names, marks.inside)
        variables = {
            key: value if key.endswith("_token") else broken(value, names, marks.inside)
            for key, value in variables.items()
        }
        for marked in [plain] if self.has_generation_blocks else assistant_marked(plain, marks):
            marked_text = self._render(marked, add_generation_prompt, variables, marks)
            if marks.removed_from(marked_text) == text:
                break
        else:
            raise ChatError("the template rewrites messages: it needs {% generation %} blocks, or trust_messages=True")
        ids, ends = _encoded(marks.removed_from(marked_text, but=marks.inside), tokenizer, marks)
        spans = assistant_spans(marked_text, marks)
        return EncodedChat(text, ids, self._mask(ids, ends, spans, tokenizer))

    @property
    def has_generation_blocks(self) -> bool:
        """Whether the template says itself what the assistant writes."""
        return "endgeneration" in self.source

    def _render(
        self, messages: Sequence[Message], add_generation_prompt: bool, variables: Mapping[str, Any], marks: Marks
    ) -> str:
        from jinja2 import TemplateError
        from jinja2.sandbox import SecurityError

        from pre_process.tokenizer.chat_sandbox import render

        everything = {
            **self.variables,
            **variables,
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return render(self._template, everything, (marks.first, marks.last))
        except SecurityError as error:
            raise ChatError(f"the chat template is stopped: {_one_line(error)}") from None
        except TemplateError as error:
            raise ChatError(f"the chat template refuses these messages: {_one_line(error)}") from None
        except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError) as error:
            raise ChatError(f"the chat template fails: {_one_line(error)}") from None

    def _mask(
        self, ids: np.ndarray, ends: np.ndarray, spans: Iterable[tuple[int, int]], tokenizer: TextTokenizer
    ) -> np.ndarray:
        starts, mask = np.concatenate(([0], ends[:-1]))[: len(ends)], np.zeros(len(ids), np.bool_)
        special = np.array(list(tokenizer.special_tokens.values()), np.int64)
        for start, end in spans:
            inside = (starts < end) & (ends > start)
            mask |= inside
            if not self.has_generation_blocks:
                mask |= (starts == end) & (ends > end) & np.isin(ids, special)
        return mask


def read_chat_template(folder: str | Path) -> ChatTemplate:
    """The template that lies beside a Hugging Face model: chat_template.jinja, or an entry of tokenizer_config.json.

    Raises ChatError for a folder without one, TokenizerError for a broken file, OSError.
    """
    folder, config = Path(folder), dict[str, Any]()
    if (folder / "tokenizer_config.json").exists():
        with faults_named(folder / "tokenizer_config.json"):
            config = typed(read_json(folder / "tokenizer_config.json"), "the file", dict)
    source = _default_of(config.get("chat_template"))
    if (folder / "chat_template.jinja").exists():
        with faults_named(folder / "chat_template.jinja"):
            source = read_text(folder / "chat_template.jinja")
    if not isinstance(source, str):
        raise ChatError(f"{folder}: no chat template in chat_template.jinja or tokenizer_config.json")
    tokens = {key: value for key, value in config.items() if key.endswith("_token")}
    names = {key: value.get("content") if isinstance(value, dict) else value for key, value in tokens.items()}
    return ChatTemplate(source, **{key: name for key, name in names.items() if isinstance(name, str)})


def _default_of(templates: Any) -> Any:
    """One of several templates with names: the one called "default"."""
    if not isinstance(templates, list):
        return templates
    named = (entry for entry in templates if isinstance(entry, dict) and entry.get("name") == "default")
    return next(named, {}).get("template")


def _checked(messages: Sequence[Message]) -> list[Message]:
    """The messages as plain JSON values without None, as `transformers` hands them on. Raises ChatError."""
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise ChatError(f"messages is {short(messages)}, not a list of messages")
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise ChatError(f"message {number} is {short(message)}, not a dict with role and content")
        if not isinstance(message.get("role"), str):
            raise ChatError(f"message {number} has no role: say 'system', 'user' or 'assistant'")
        if message.get("content") is None and not message.get("tool_calls"):
            raise ChatError(f"message {number} ({message['role']}) has no content")
    try:
        plain = json.loads(json.dumps(list(map(dict, messages)), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ChatError(f"messages hold more than text, numbers, lists and dicts: {_one_line(error)}") from None
    return [{key: value for key, value in message.items() if value is not None} for message in plain]


def _encoded(marked: str, tokenizer: TextTokenizer, marks: Marks) -> tuple[np.ndarray, np.ndarray]:
    """Ids (n,) of a text, in which a mark keeps the specials that people wrote plain, and where each token ends."""
    added = tokenizer.vocabulary.added if isinstance(tokenizer, Tokenizer) else {}
    if any(token.lstrip or token.rstrip for token in added.values()):
        raise ChatError("a tokenizer whose special tokens take white space with them cannot say where tokens stand")
    ids, ends, done = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)], 0
    for stretch in split_specials(marked, tokenizer.special_tokens, added):
        if isinstance(stretch, int):
            ids.append(np.array([stretch], np.int32))
            ends.append(np.array([done + len(tokenizer.token_bytes(stretch))]))
        elif text := stretch.replace(marks.inside, ""):
            ids.append(tokenizer.encode(text))
            ends.append(done + _token_ends(tokenizer, ids[-1], text))
        done = int(ends[-1][-1]) if len(ends[-1]) else done
    return np.concatenate(ids), np.concatenate(ends)


def _token_ends(tokenizer: TextTokenizer, ids: np.ndarray, text: str) -> np.ndarray:
    """Where each token of `text` ends, in bytes. Raises TokenizerError if the tokens are not the text."""
    tokens = [tokenizer.token_bytes(int(token_id)) for token_id in ids]
    spelled, wanted = b"".join(tokens), utf8(text)
    in_front = len(spelled) - len(wanted)
    if in_front not in (0, 1) or spelled != b" " * in_front + wanted:
        raise TokenizerError("where tokens stand is known only for a tokenizer that keeps each byte of a text")
    return np.maximum(np.cumsum([len(token) for token in tokens], dtype=np.int64) - in_front, 0)


def _one_line(error: BaseException) -> str:
    line = getattr(error, "lineno", None)
    return " ".join(str(error).split())[:300] + (f" (line {line})" if line else "")
