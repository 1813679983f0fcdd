"""Files of the Hugging Face Hub: at a pinned revision, resumed, checked; or one line that says why not."""

import logging
import time
from pathlib import Path
from typing import NamedTuple

from pre_process.files import sha256_file

ATTEMPTS = 4
PAUSE = 2.0  # seconds before the second attempt, and twice as long before each further one


class DownloadError(OSError):
    """A file that can't be had; the message is one line."""


class HubFile(NamedTuple):
    """One file of a dataset repository, as it was when its page in text-data-info/ was written."""

    repo: str  # owner/name
    path: str  # in the repository
    revision: str  # commit; "main" where no commit is known, and then it may change
    sha256: str | None = None  # of the content, where it is known

    def __str__(self) -> str:
        return f"{self.repo}/{self.path} at {self.revision[:12]}"


def fetch(file: HubFile, *, offline: bool = False) -> Path:
    """The local copy of a file, downloaded first if it isn't there; an interrupted download goes on where it stopped.

    Kept in the Hub library's cache (HF_HOME), which other programs share. HF_ENDPOINT names a mirror. Offline, no
    socket is opened. A copy whose SHA-256 is not the pinned one is deleted. Raises DownloadError.
    """
    path = _local_copy(file) if offline else _download(file)
    if file.sha256 is not None and (found := sha256_file(path)) != file.sha256:
        path.resolve().unlink()  # the link in the snapshot folder, and what it points to
        path.unlink(missing_ok=True)
        raise DownloadError(
            f"{file}: its content has sha256 {found[:12]}…, not {file.sha256[:12]}…; deleted, try again"
        )
    return path


def _library() -> None:
    try:
        import huggingface_hub
    except ImportError:
        raise DownloadError("downloads need huggingface_hub: pip install 'nanograd[hub]', or give --from") from None
    logging.getLogger(huggingface_hub.__name__).setLevel(logging.ERROR)  # its advice is for its own callers


def _local_copy(file: HubFile) -> Path:
    _library()
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(file.repo, file.path, revision=file.revision, repo_type="dataset")
    if not isinstance(found, str):
        raise DownloadError(f"{file} was never downloaded here: leave out --offline, or give --from")
    return Path(found)


def _download(file: HubFile) -> Path:
    _library()
    from huggingface_hub import hf_hub_download

    for attempt in range(ATTEMPTS):
        try:
            return Path(hf_hub_download(file.repo, file.path, revision=file.revision, repo_type="dataset"))
        except Exception as error:  # the library's own, of its HTTP client, of the disk: all end in one line
            if not _passes(error) or attempt == ATTEMPTS - 1:
                raise DownloadError(f"{file}: {_why(error)}") from error
            time.sleep(PAUSE * 2**attempt)
    raise AssertionError("unreachable")


def _passes(error: Exception) -> bool:
    """Whether it may go away by itself: a connection that broke, a server that is busy. A full disk won't."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return status in (408, 429) or status >= 500
    name = type(error).__name__
    return "Connect" in name or "Timeout" in name or "Protocol" in name or "Consistency check" in str(error)


def _why(error: Exception) -> str:
    """The first line of the reason, in words of this command."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    reasons = {401: "not for everybody: log in with `hf auth login`", 403: "access is refused", 404: "not found"}
    if status is not None:
        return reasons.get(status, f"the server answers {status}")
    if type(error).__name__ == "LocalEntryNotFoundError":
        return "the server can't be reached; --offline uses an earlier download, --from a file of yours"
    return str(error).partition("\n")[0] or type(error).__name__
