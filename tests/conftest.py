"""`pytest --device cuda` runs the tests marked `cuda` on a GPU; without a GPU they are skipped, and say why."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

# The matrices of tests are small: a second BLAS thread only spins. Set before NumPy, which reads it, is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


# An example that takes long says nothing about the code. Everywhere but in CI each run tries other examples; there a
# failure should be the change's own.
settings.register_profile("explore", deadline=None)
settings.register_profile("repeat", deadline=None, derandomize=True)
settings.load_profile("repeat" if os.environ.get("CI") else "explore")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="cpu (default), cuda or cuda:N: where the tests marked cuda run")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if (reason := why_no_gpu(config.getoption("--device"))) is not None:
        for item in items:
            if "cuda" in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


def why_no_gpu(device: str) -> str | None:
    """None if tests can run on the GPU that `device` names."""
    from nanograd import backend

    if device == "cpu":
        return "needs a GPU: pytest --device cuda"
    try:
        backend.check_device(device)
    except backend.DeviceError as error:
        return str(error)
    return None


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    """The device that was asked for on the command line."""
    return str(request.config.getoption("--device"))


@pytest.fixture
def twins() -> Iterator[None]:
    """Compiled twins run in this test; elsewhere the formulas do. Skipped where NANOGRAD_KERNELS=0 keeps them off."""
    from nanograd import backend, kernels

    if not backend.kernels_allowed():
        pytest.skip("NANOGRAD_KERNELS=0 keeps the compiled twins off")
    before = backend.kernels_enabled()
    kernels.load()
    yield
    backend.use_kernels(before)


@pytest.fixture(autouse=True)
def formulas() -> Iterator[None]:
    """A training run in this process loads the twins: the next test begins with the formulas all the same."""
    from nanograd import backend

    before = backend.use_kernels(False)
    yield
    backend.use_kernels(before)
