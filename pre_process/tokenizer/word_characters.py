"""What \\w means to the field's tools: letters, marks, decimal and letter-like numbers, joiners, circled letters.

Unicode Technical Standard 18, Annex C, from the frozen table of categories, so that it is the same in every Python.
"""

import functools

import numpy as np

from pre_process.tokenizer.kernels.unicode_classes import CATEGORIES, categories

_CONNECTORS = "_‿⁀⁔︳︴﹍﹎﹏＿"  # \p{Pc}
_JOINERS = "\u200c\u200d"
_CIRCLED_LETTERS = ((0x24B6, 0x24E9), (0x1F130, 0x1F149), (0x1F150, 0x1F169), (0x1F170, 0x1F189))  # Alphabetic symbols


@functools.cache
def word_class() -> str:
    """All word characters as ranges, to stand between the brackets of a regular expression."""
    import regex  # knows which numbers are no word characters: ½, ①, ²

    table, numbers = categories(), CATEGORIES.index("N")
    is_word = (table > 0) & (table < numbers)  # letters and marks
    words = [number for number in np.flatnonzero(table == numbers) if regex.match(r"[\p{Nd}\p{Nl}]", chr(number))]
    is_word[words] = True
    is_word[[ord(character) for character in _CONNECTORS + _JOINERS]] = True
    for first, last in _CIRCLED_LETTERS:
        is_word[first : last + 1] = True
    edges = np.flatnonzero(np.diff(is_word, prepend=False, append=False)).reshape(-1, 2)
    return "".join(f"{chr(first)}-{chr(end - 1)}" for first, end in edges)
