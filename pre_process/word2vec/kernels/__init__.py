"""word2vec's inner loops, compiled by Numba. Importing this package compiles nothing and does not load Numba.

They have no slower twin, so NANOGRAD_KERNELS=0 does not concern them: the other way is engine="gensim".

support    how functions are compiled, and where the code is kept
vector     sixteen numbers as one value
chance     random bits, and drawing words with given probabilities
sentences  reading, thinning out, windows, negatives: what comes before learning
scoring    products of an input with six targets, and their errors
skip_gram  learning from a window, one way
cbow       the other way
words      text → words → ids
"""

END = -1  # of a sentence, in a row of word ids
LONGEST = 10_000  # words in a sentence, gensim's bound
