"""Makes golden_ids.json: `python -m tests.pre_process.freeze_ids`. Three small tokenizers, 200 texts, and their ids.

The ids are Hugging Face's; where tiktoken can take the vocabulary it must agree. So tests know the right ids where
neither is installed.
"""

import json
from pathlib import Path

from pre_process.tokenizer import Tokenizer
from pre_process.tokenizer.pre_tokenize import PATTERNS, PatternName
from tests.pre_process import tokenizer_texts as texts

PATH = Path(__file__).with_name("golden_ids.json")
SHAPES: tuple[PatternName, ...] = ("gpt2", "cl100k", "naive")


def hugging_face_ids(tokenizer: Tokenizer, batch: list[str]) -> list[list[int]]:
    """What `tokenizers` makes of the texts, in which special tokens are text: those are taken out of its file."""
    from tokenizers import Tokenizer as Theirs

    tree = json.loads(tokenizer.to_json())
    tree["added_tokens"] = []
    return [found.ids for found in Theirs.from_str(json.dumps(tree)).encode_batch(batch)]


def tiktoken_ids(tokenizer: Tokenizer, batch: list[str]) -> list[list[int]]:
    """What tiktoken makes of the texts, for a vocabulary without special tokens whose merges made the ids in turn."""
    import tiktoken

    pattern = PATTERNS[tokenizer.pattern]
    encoding = tiktoken.Encoding("ours", pat_str=pattern, mergeable_ranks=tokenizer.vocabulary.ids, special_tokens={})
    return encoding.encode_ordinary_batch(batch)


def main() -> None:
    """Write the file."""
    batch = texts.nasty_strings(200)
    golden = {"texts": batch, "tokenizers": {}, "ids": {}}
    for pattern in SHAPES:
        documents = texts.documents("news")[:100]
        tokenizer = Tokenizer.train(documents, vocab_size=500, pattern=pattern, special_tokens=[])
        ids = hugging_face_ids(tokenizer, batch)
        if pattern != "naive" and ids != tiktoken_ids(tokenizer, batch):
            raise SystemExit(f"{pattern}: the two libraries give different ids")
        golden["tokenizers"][pattern] = json.loads(tokenizer.to_json())
        golden["ids"][pattern] = ids
    PATH.write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
