"""The Tokenizer: everything in this folder behind one door. Train or load it, then encode and decode."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from pre_process.files import write_atomic
from pre_process.tokenizer import documents, hugging_face
from pre_process.tokenizer.added_tokens import allowed_specials, split_specials
from pre_process.tokenizer.batch import Rows, Side, pad_batch, split_rows, truncate_ids, usable_cores, with_specials
from pre_process.tokenizer.decoder import Decoder, StreamDecoder, checked_ids
from pre_process.tokenizer.encoder import Encoder, Method
from pre_process.tokenizer.hugging_face_parts import Settings
from pre_process.tokenizer.normalize import NormalizerName, make_normalizer
from pre_process.tokenizer.pre_tokenize import PatternName
from pre_process.tokenizer.train import train_vocabulary
from pre_process.tokenizer.vocabulary import TokenizerError, Vocabulary

FILE_NAME = "tokenizer.json"
PAD_NAMES = ("<|pad|>", "<pad>", "[PAD]")
SPECIAL_TOKENS = ("<|pad|>", "<|endoftext|>")
END_OF_TEXT_NAMES = ("<|endoftext|>", "<endoftext>", "</s>")


class Tokenizer:
    """Text ↔ ids. `decode(encode(text)) == text` for every str unless a normalizer is chosen.

    Attributes: `vocabulary`, `pattern`, `normalizer`, `lowercase`, `add_prefix_space`, `vocab_size`, `special_tokens`
    (name → id).
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        pattern: PatternName = "gpt2",
        normalizer: NormalizerName = "none",
        lowercase: bool = False,
        add_prefix_space: bool = False,
    ) -> None:
        self.vocabulary = vocabulary
        self.pattern: PatternName = pattern
        self.normalizer: NormalizerName = normalizer
        self.lowercase = lowercase
        self.add_prefix_space = add_prefix_space
        self.vocab_size = len(vocabulary.tokens)
        self.special_tokens = dict(vocabulary.specials)
        self._normalize = make_normalizer(normalizer, lowercase=lowercase, add_prefix_space=add_prefix_space)
        self._encoders: dict[Method, Encoder] = {}
        self._decoders = {
            skip: Decoder(vocabulary, vocabulary.silent_ids if skip else frozenset()) for skip in (True, False)
        }

    def __reduce__(self) -> tuple[Callable[..., "Tokenizer"], tuple[Vocabulary, Settings]]:
        """Copies and pickles are made anew from what defines a tokenizer: no memory of pieces goes with them."""
        return _from_settings, (self.vocabulary, self.settings)

    def __repr__(self) -> str:
        return f"<Tokenizer: {self.vocab_size} tokens, {self.pattern} pattern, {len(self.special_tokens)} special>"

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        *,
        vocab_size: int,
        pattern: PatternName = "gpt2",
        normalizer: NormalizerName = "none",
        lowercase: bool = False,
        add_prefix_space: bool = False,
        special_tokens: Sequence[str] = SPECIAL_TOKENS,
        min_frequency: int = 2,
        threads: int | None = None,
        counted: Callable[[int], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> "Tokenizer":
        """Learn at most `vocab_size` tokens from `texts` (documents), read once: specials, first symbols, merges.

        The "naive" pattern starts from characters, the others from bytes. Pairs (and characters) seen fewer than
        `min_frequency` times are left alone. `counted(bytes read)`, then `progress(merges done, merges wanted)`.
        Memory grows with the different pieces, not with the texts; large ones are counted by `threads` (None: one per
        core), with the same result. Raises TokenizerError.
        """
        normalize = make_normalizer(normalizer, lowercase=lowercase, add_prefix_space=add_prefix_space)
        vocabulary = train_vocabulary(
            documents.from_texts(texts, normalize),
            vocab_size=vocab_size,
            pattern=pattern,
            special_tokens=special_tokens,
            min_frequency=min_frequency,
            threads=threads,
            counted=counted,
            progress=progress,
        )
        settings = Settings(pattern, normalizer, lowercase, add_prefix_space)
        return cls(vocabulary, **settings._asdict())

    @classmethod
    def train_files(
        cls,
        paths: Iterable[str | Path],
        *,
        vocab_size: int,
        pattern: PatternName = "gpt2",
        normalizer: NormalizerName = "none",
        lowercase: bool = False,
        special_tokens: Sequence[str] = SPECIAL_TOKENS,
        min_frequency: int = 2,
        threads: int | None = None,
        counted: Callable[[int], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> "Tokenizer":
        """As `train` on UTF-8 files, each a document, which stream through memory in parts. Raises OSError too."""
        vocabulary = train_vocabulary(
            documents.from_files(paths, make_normalizer(normalizer, lowercase=lowercase)),
            vocab_size=vocab_size,
            pattern=pattern,
            special_tokens=special_tokens,
            min_frequency=min_frequency,
            threads=threads,
            counted=counted,
            progress=progress,
        )
        return cls(vocabulary, pattern=pattern, normalizer=normalizer, lowercase=lowercase)

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read tokenizer.json, or the folder that holds it. Raises TokenizerError (what is wrong in it) or OSError."""
        path = Path(path)
        vocabulary, settings = hugging_face.load(path / FILE_NAME if path.is_dir() else path)
        return cls(vocabulary, **settings._asdict())

    def save(self, folder: str | Path) -> None:
        """Write `folder`/tokenizer.json in one step; the folder is made if need be. Raises OSError."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_atomic(Path(folder) / FILE_NAME, self.to_json().encode("utf-8"))

    def to_json(self) -> str:
        """The text of tokenizer.json in Hugging Face's layout; equal tokenizers give equal text."""
        return self._json

    @cached_property
    def _json(self) -> str:
        return hugging_face.dump(self.vocabulary, self.settings)

    @property
    def settings(self) -> Settings:
        """All but the vocabulary: what happens to a text before it is cut, and what cuts it."""
        return Settings(self.pattern, self.normalizer, self.lowercase, self.add_prefix_space)

    @cached_property
    def sha256(self) -> str:
        """The hash of `to_json()`: names this tokenizer in manifests and checkpoints."""
        return hashlib.sha256(self.to_json().encode("utf-8")).hexdigest()

    @property
    def pad_id(self) -> int:
        """The id of the padding token. Raises TokenizerError if there is none."""
        return self._role("padding", PAD_NAMES)

    @property
    def end_of_text_id(self) -> int:
        """The id of the end-of-text token. Raises TokenizerError if there is none."""
        return self._role("end-of-text", END_OF_TEXT_NAMES)

    def _role(self, role: str, names: Sequence[str]) -> int:
        for name in names:
            if name in self.special_tokens:
                return self.special_tokens[name]
        raise TokenizerError(f"this tokenizer has no {role} token: train it with one of {', '.join(names)}")

    def encode(
        self, text: str, *, method: Method = "merges", allowed_special: Collection[str] | Literal["all"] = ()
    ) -> np.ndarray:
        """Ids (n,) int32 of `text`. No end-of-text is added. Raises TokenizerError.

        Special tokens written in the text are plain text, unless `allowed_special` names them (as in tiktoken): a
        document that talks about "<|endoftext|>" does not end there.
        """
        if not isinstance(text, str):
            raise TokenizerError(f"encode wants one str, not {type(text).__name__}; encode_batch takes several")
        return self._encode([text], method, allowed_special, threads=1).ids

    def encode_documents(
        self,
        texts: Iterable[str],
        *,
        method: Method = "merges",
        end_of_text: bool = False,
        threads: int | None = None,
    ) -> Rows:
        """(ids, starts) of many plain texts: text i has ids[starts[i]:starts[i + 1]], on `threads` threads (all cores).

        ids (n,) are uint16 for at most 65,536 tokens, else uint32; starts (len(texts) + 1,) int64. With `end_of_text`
        its id stands behind each text. Special tokens written in the texts are plain text. Raises TokenizerError.
        """
        if threads is not None and threads < 1:
            raise TokenizerError(f"threads is {threads}: at least one must do the work")
        ids, starts = self._encode(texts, method, (), threads=threads)
        ids = ids.astype(np.uint16 if self.vocab_size <= 1 << 16 else np.uint32)
        if end_of_text:
            return Rows(np.insert(ids, starts[1:], self.end_of_text_id), starts + np.arange(len(starts)))
        return Rows(ids, starts)

    def encode_batch(
        self,
        texts: Iterable[str],
        *,
        pad: Side | None = "right",
        max_length: int | None = None,
        truncate: Side | None = None,
        method: Method = "merges",
        allowed_special: Collection[str] | Literal["all"] = (),
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids (B, T) int32 and mask (B, T) bool, True = real token; T is the longest text's length.

        `pad` is the side that is filled up, None wants texts of equal length. A text of more than `max_length` tokens
        is an error that names its length, unless `truncate` names the side to drop. Raises TokenizerError.
        """
        rows = split_rows(self._encode(texts, method, allowed_special))
        rows = [truncate_ids(row, max_length=max_length, truncate=truncate) for row in rows]
        return pad_batch(rows, pad=pad, pad_id=0 if pad is None else self.pad_id)

    def _encode(
        self,
        texts: Iterable[str],
        method: Method,
        allowed_special: Collection[str] | Literal["all"],
        *,
        threads: int | None = None,
    ) -> Rows:
        """The ids of all texts. Plain stretches between the special tokens are encoded together."""
        allowed = allowed_specials(self.special_tokens, allowed_special)
        parts = [list(split_specials(text, allowed, self.vocabulary.added)) for text in _checked_texts(texts)]
        stretches = [self._normalize(part) for cut in parts for part in cut if isinstance(part, str)]
        rows = self._encoder(method).encode(stretches, threads=threads or usable_cores())
        return rows if not allowed else with_specials(parts, split_rows(rows))

    def _encoder(self, method: Method) -> Encoder:
        if method not in self._encoders:
            self._encoders[method] = Encoder(self.vocabulary, self.pattern, method)
        return self._encoders[method]

    def decode(self, ids: Sequence[int] | np.ndarray, *, skip_special: bool = True) -> str:
        """The text of `ids` (n,). Broken UTF-8 becomes U+FFFD. Raises TokenizerError for ids that do not exist."""
        return self._decoders[skip_special].decode(ids)

    def stream_decoder(self, *, skip_special: bool = True) -> StreamDecoder:
        """A decoder to feed id by id, for text that appears while it is generated."""
        return StreamDecoder(self.vocabulary, skip_special=skip_special)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token (of a special token: its name in UTF-8). Raises TokenizerError for a wrong id."""
        [token_id] = checked_ids([token_id], self.vocab_size)
        return self.vocabulary.tokens[token_id]


def _from_settings(vocabulary: Vocabulary, settings: Settings) -> Tokenizer:
    return Tokenizer(vocabulary, **settings._asdict())


def _checked_texts(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str):
        raise TokenizerError("encode_batch wants several texts: pass a list, [text]")
    texts = list(texts)
    for text in texts:
        if not isinstance(text, str):
            raise TokenizerError(f"encode wants one str, not {type(text).__name__}; encode_batch takes several")
    return texts
