"""What ends a recording in the middle, on the stand-in: the stream is free again, so that a run can be saved."""

import pytest

from nanograd.backend import own_stream
from nanograd.graph import WARM_UP, CaptureRefusedError, Recorded


def recorded(xp, work):
    """Some work that was done as it is, and is recorded at the next call."""
    graph = Recorded(xp, xp.cuda.MemoryPool())
    for _ in range(WARM_UP):
        graph(lambda: None)
    return lambda: graph(work)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, ValueError])
def test_what_is_no_refusal_goes_on_and_leaves_no_captured_stream(error, stand_in):
    def work():
        raise error

    stream = own_stream("cuda")
    with pytest.raises(error):
        recorded(stand_in, work)()
    assert not stream.is_capturing()
    assert stand_in.ones(3).get().sum() == 3  # a copy to the host, as saving makes them


def test_a_recording_that_fails_at_its_end_is_refused(stand_in, monkeypatch):
    """A capture that something has made invalid is told of by end_capture."""
    stream = own_stream("cuda")
    end = stream.end_capture

    def fails():
        end()
        raise RuntimeError("cudaErrorStreamCaptureInvalidated:\n operation failed")

    monkeypatch.setattr(stream, "end_capture", fails)
    with pytest.raises(CaptureRefusedError, match=r"^cudaErrorStreamCaptureInvalidated: operation failed$"):
        recorded(stand_in, lambda: None)()
