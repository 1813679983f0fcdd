"""Downloads from a server that breaks off, lies, is busy, or isn't there: the whole file, or one line and no file."""

import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data import hub
from data.hub import DownloadError, HubFile, fetch
from tests.data.hub_server import Hub, serving

pytest.importorskip("huggingface_hub", reason="needs pip install 'nanograd[hub]'")
CONTENT = np.random.default_rng(0).bytes(3_000_000)
FILE = HubFile("someone/something", "big.bin", "main", hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The stand-in, with an empty cache; nothing waits long."""
    from huggingface_hub import constants

    monkeypatch.setattr(hub, "PAUSE", 0.001)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    with serving({"big.bin": CONTENT}) as stand_in:
        monkeypatch.setattr(constants, "ENDPOINT", stand_in.address)
        template = stand_in.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield stand_in


def cached(tmp_path: Path) -> list[Path]:
    """What would be taken for a whole file later: all but the pieces of interrupted downloads and locks."""
    found = [path for path in (tmp_path / "cache").rglob("big.bin") if path.is_file()]
    return found + [path for path in (tmp_path / "cache").rglob("blobs/*") if path.suffix != ".incomplete"]


def test_a_file_comes_once_and_is_found_again(server: Hub) -> None:
    path = fetch(FILE)
    assert path.read_bytes() == CONTENT
    bodies = sum(request.startswith("GET") for request in server.requests)
    assert fetch(FILE) == path
    assert sum(request.startswith("GET") for request in server.requests) == bodies


@pytest.mark.parametrize("cut", [0, 1, 70_000, 2_999_999])
def test_what_breaks_off_goes_on_where_it_stopped(server: Hub, cut: int) -> None:
    server.cuts = [cut]
    assert fetch(FILE).read_bytes() == CONTENT
    if cut >= 70_000:
        assert any("bytes=" in request for request in server.requests), server.requests


def test_a_server_that_is_busy_is_asked_again(server: Hub) -> None:
    server.codes = [429, 503, 500]
    assert fetch(FILE).read_bytes() == CONTENT


def test_a_server_that_stays_busy_ends_in_one_line(server: Hub, tmp_path: Path) -> None:
    server.codes = [500] * 50
    with pytest.raises(DownloadError, match=r"someone/something/big\.bin at main: the server answers 500$"):
        fetch(FILE)
    assert cached(tmp_path) == []


@pytest.mark.parametrize("lie", [-1000, 1000])
def test_a_wrong_length_never_leaves_a_bad_file(server: Hub, tmp_path: Path, lie: int) -> None:
    server.length_lie = lie
    with pytest.raises(DownloadError) as error:
        fetch(FILE)
    assert "\n" not in str(error.value)
    assert cached(tmp_path) == []
    server.length_lie = 0
    assert fetch(FILE).read_bytes() == CONTENT


def test_other_content_is_refused_and_deleted(server: Hub, tmp_path: Path) -> None:
    server.files["big.bin"] = bytes(reversed(CONTENT))
    with pytest.raises(DownloadError, match="its content has sha256"):
        fetch(FILE)
    assert cached(tmp_path) == []


def test_a_login_page_is_no_file(server: Hub, tmp_path: Path) -> None:
    server.page = b"<html>Welcome to our hotel</html>"
    with pytest.raises(DownloadError) as error:
        fetch(FILE)
    assert "\n" not in str(error.value)
    assert cached(tmp_path) == []


def test_what_is_not_there_says_so(server: Hub) -> None:
    with pytest.raises(DownloadError, match="not found"):
        fetch(FILE._replace(path="other.bin"))
    assert len(server.requests) == 1, "what isn't there won't come by asking again"


def test_offline_opens_no_socket(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch(FILE)

    def refuse(*args: object, **settings: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert fetch(FILE, offline=True) == path
    with pytest.raises(DownloadError, match="never downloaded here"):
        fetch(FILE._replace(path="other.bin"), offline=True)


def test_without_a_network_the_line_says_what_to_do(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )
    with pytest.raises(DownloadError, match="--offline uses an earlier download"):
        fetch(FILE)
