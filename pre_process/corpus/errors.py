"""The one error of this package."""


class CorpusError(ValueError):
    """A text source that can't be used; the message is one line: which source, what is wrong, what to do."""
