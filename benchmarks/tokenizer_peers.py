"""Other tokenizers with our vocabulary, each as functions from texts to ids and from ids to text."""

import base64
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from pre_process.tokenizer import Tokenizer
from pre_process.tokenizer.pre_tokenize import PATTERNS


class Peer(NamedTuple):
    """`encode` a batch of texts, `decode` one list of ids; `forget` what is remembered of earlier texts."""

    encode: Callable[[Sequence[str]], Any]
    decode: Callable[[Any], str]
    forget: Callable[[], None] = lambda: None


def nanograd(tokenizer: Tokenizer) -> Peer:
    """This project's, with arrays as its ids, by compiled code however small the text. `forget` forgets all pieces."""
    compiled = tokenizer._encoder("merges")._compiled
    assert compiled is not None, "this vocabulary does not fit into the kernels' tables"
    assert tokenizer._decoders[True]._compiled
    return Peer(tokenizer.encode_documents, tokenizer.decode, compiled._idle.clear)


def tiktoken(tokenizer: Tokenizer) -> Peer:
    """Its ranks are our ids: without special tokens in front, merges have made the ids in their order."""
    import tiktoken

    encoding = tiktoken.Encoding(
        "ours", pat_str=PATTERNS[tokenizer.pattern], mergeable_ranks=tokenizer.vocabulary.ids, special_tokens={}
    )
    return Peer(
        lambda texts: encoding.encode_ordinary_batch(list(texts), num_threads=len(os.sched_getaffinity(0))),
        encoding.decode,
    )


def tokenizers(tokenizer: Tokenizer) -> Peer:
    """Hugging Face's, from our tokenizer.json."""
    from tokenizers import Tokenizer as Theirs

    theirs = Theirs.from_str(tokenizer.to_json())
    return Peer(lambda texts: [found.ids for found in theirs.encode_batch_fast(list(texts))], theirs.decode)


def rs_bpe() -> tuple[Peer, Tokenizer]:
    """Its own cl100k_base, the only vocabulary that it has besides o200k; and ours from the same ranks."""
    import rs_bpe.bpe

    from pre_process.tokenizer.tiktoken_files import read_tiktoken

    theirs = rs_bpe.bpe.openai.cl100k_base()
    tokens = [bytes(theirs.bpe().decode_tokens([token_id])) for token_id in range(100_256)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cl100k_base.tiktoken"
        path.write_text("".join(f"{base64.b64encode(token).decode()} {i}\n" for i, token in enumerate(tokens)))
        ours = read_tiktoken(path, pattern="cl100k")
    return Peer(lambda texts: theirs.encode_batch(list(texts)), theirs.decode), ours


def installed() -> dict[str, Callable[[Tokenizer], Peer]]:
    """Those that can be measured here with a vocabulary of ours."""
    return {name: make for name, make in (("tiktoken", tiktoken), ("tokenizers", tokenizers)) if find_spec(name)}


@contextmanager
def on_cores(count: int) -> Iterator[None]:
    """This process, threads started within included, on `count` cores."""
    all_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(all_cores)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, all_cores)
