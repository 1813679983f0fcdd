"""The text path: corpus, tokenizer, word vectors, position vectors. Imports nothing from nanograd, but for teaching."""

import signal
import sys

if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # One of the commands begins. Until it can clean up there is nothing to clean: Ctrl-C ends it, without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
