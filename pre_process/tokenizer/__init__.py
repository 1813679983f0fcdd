"""The tokenizer, a ladder of small files; each adds one idea. Read them in this order.

normalize      what may be changed before anything else (by default: nothing)
pre_tokenize   cutting text into words, spaces and marks
byte_level     text as bytes, bytes as visible characters
bpe            learning which neighbours to join: byte-pair encoding
vocabulary     the result: tokens, merges, special tokens; train.py gets there, from documents.py as a stream
lookup         finding a token, three ways
encoder        text → ids; batch.py makes rectangles of them
decoder        ids → text, at once or as a stream
added_tokens   special tokens in a text: found where they are allowed, plain text elsewhere
hugging_face   tokenizer.json, with json_files.py to read carefully; hugging_face_parts.py is all but the model in it
tokenizer      Tokenizer, one door for all of it
gpt2_files     vocab.json and merges.txt; word_list.py reads vocabularies without merges
tiktoken_files rank files
sentencepiece  Llama's way, with sentencepiece_files.py to read its models
word_level     one token for each word
formats        opening any of these files
chat           messages to one text, ids and the assistant's tokens; chat_marks.py; chat_sandbox.py for templates
inspection     how a text is cut, where a token comes from, how well a vocabulary fits
kernels        the slow half once more, compiled; nothing needs it
commands       python -m pre_process.tokenizer, with id_files.py for ids in .npy files of any size
"""

from pre_process.tokenizer.chat import ChatTemplate, EncodedChat, read_chat_template
from pre_process.tokenizer.decoder import StreamDecoder
from pre_process.tokenizer.formats import open_tokenizer
from pre_process.tokenizer.gpt2_files import read_gpt2_files, write_gpt2_files
from pre_process.tokenizer.pre_tokenize import NaivePreTokenizer
from pre_process.tokenizer.sentencepiece import SentencePieceTokenizer, read_sentencepiece
from pre_process.tokenizer.tiktoken_files import read_tiktoken, write_tiktoken
from pre_process.tokenizer.tokenizer import Tokenizer
from pre_process.tokenizer.vocabulary import TokenizerError
from pre_process.tokenizer.word_level import WordLevelTokenizer
from pre_process.tokenizer.word_list import read_word_list

__all__ = [
    "ChatTemplate",
    "EncodedChat",
    "NaivePreTokenizer",
    "SentencePieceTokenizer",
    "StreamDecoder",
    "Tokenizer",
    "TokenizerError",
    "WordLevelTokenizer",
    "open_tokenizer",
    "read_chat_template",
    "read_gpt2_files",
    "read_sentencepiece",
    "read_tiktoken",
    "read_word_list",
    "write_gpt2_files",
    "write_tiktoken",
]
