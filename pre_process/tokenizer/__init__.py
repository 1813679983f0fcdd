"""The tokenizer, a ladder of small files; each adds one idea. Read them in this order.

normalize      what may be changed before anything else (by default: nothing)
pre_tokenize   cutting text into words, spaces and marks
byte_level     text as bytes, bytes as visible characters
bpe            learning which neighbours to join: byte-pair encoding
vocabulary     the result: tokens, merges, special tokens; train.py gets there from texts
lookup         finding a token, three ways
encoder        text → ids; batch.py makes rectangles of them
decoder        ids → text, at once or as a stream
hugging_face   tokenizer.json; json_files.py reads carefully
tokenizer      Tokenizer, one door for all of it
"""

from pre_process.tokenizer.decoder import StreamDecoder
from pre_process.tokenizer.tokenizer import Tokenizer
from pre_process.tokenizer.vocabulary import TokenizerError

__all__ = ["StreamDecoder", "Tokenizer", "TokenizerError"]
