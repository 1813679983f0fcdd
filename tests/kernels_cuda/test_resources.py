"""The compile gate: every kernel becomes machine code for three generations of GPUs, without a spill, as committed."""

import pytest

from nanograd.kernels.cuda import nvrtc, resources
from nanograd.kernels.cuda.compile import architecture
from nanograd.kernels.cuda.resources import ARCHITECTURES, Resources, as_table, measure, read_log, read_table
from nanograd.kernels.cuda.sources import FOLDER, families, source_of

TABLE = FOLDER.parents[2] / resources.TABLE
AGAIN = "python -m nanograd.kernels.cuda.resources --write"


@pytest.fixture
def compiler() -> None:
    try:
        nvrtc.load()
    except nvrtc.CompileError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("source", families(), ids=lambda path: path.stem)
def test_every_kernel_compiles_and_takes_what_the_table_says(source, arch):
    found = measure(source, arch)
    assert found
    assert [row for row in found if row.spilled] == []
    version, rows = read_table(TABLE.read_text(encoding="utf-8"))
    if version == nvrtc.version():
        expected = [row for row in rows if row.arch == arch and source_of(row.kernel) == source]
        assert sorted(found) == sorted(expected), f"changed on purpose? Then {AGAIN}"


def test_the_table_knows_every_file_and_nothing_else():
    _, rows = read_table(TABLE.read_text(encoding="utf-8"))
    assert {source_of(row.kernel) for row in rows} == set(families()), AGAIN
    assert {row.arch for row in rows} == set(ARCHITECTURES)
    assert [row for row in rows if row.spilled] == []


def test_a_table_is_read_as_it_was_written():
    rows = [Resources("a", arch, 32, 512, 0) for arch in ARCHITECTURES]
    assert read_table(as_table(rows, (13, 0))) == ((13, 0), rows)


LOG = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'one' for 'sm_80'
ptxas info    : Function properties for one
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 24 registers, used 1 barriers, 128 bytes smem, 384 bytes cmem[0]
ptxas info    : Compiling entry function 'two' for 'sm_80'
ptxas info    : Function properties for two
    8 bytes stack frame, 12 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers
"""


def test_the_compilers_log_is_read():
    assert read_log(LOG, "sm_80") == [Resources("one", "sm_80", 24, 128, 0), Resources("two", "sm_80", 255, 0, 24)]


@pytest.mark.usefixtures("compiler")
def test_what_a_compiler_refuses_is_said_in_its_own_words(tmp_path):
    (tmp_path / "wrong.cu").write_text('#include "nk.h"\nNK_KERNEL wrong(float* y) { y[0] = nobody; }\n')
    with pytest.raises(nvrtc.CompileError, match=r'wrong\.cu for sm_80: .*\n.*identifier "nobody" is undefined'):
        nvrtc.compile_cubin(tmp_path / "wrong.cu", "sm_80")


@pytest.mark.usefixtures("compiler")
def test_a_cubin_is_an_elf_file(tmp_path):
    (tmp_path / "right.cu").write_text('#include "nk.h"\nNK_KERNEL right(float* y) { y[0] = 1.f; }\nNK_EXPORT(right)\n')
    assert nvrtc.compile_cubin(tmp_path / "right.cu", "sm_90a").cubin.startswith(b"\x7fELF")


def test_without_nvrtc_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(nvrtc, "_candidates", lambda: iter(["libnothing.so.1"]))
    monkeypatch.setattr(resources, "families", lambda: [FOLDER / "softmax.cu"])
    nvrtc.load.cache_clear()
    try:
        assert resources.main([]) == 2
        assert capsys.readouterr().err == f"resources: compiling CUDA kernels needs NVRTC: {nvrtc.HOW_TO_GET_IT}\n"
    finally:
        nvrtc.load.cache_clear()


@pytest.mark.parametrize(
    ("capability", "arch"), [(80, "sm_80"), (86, "sm_86"), (87, "sm_86"), (90, "sm_90a"), (100, "sm_100")]
)
def test_each_gpu_gets_the_newest_code_that_runs_on_it(capability, arch, monkeypatch):
    monkeypatch.setattr(nvrtc, "supported", lambda: [75, 80, 86, 89, 90, 100])
    assert architecture(capability) == arch


def test_a_gpu_that_is_too_old_or_too_new_is_refused(monkeypatch):
    monkeypatch.setattr(nvrtc, "supported", lambda: [75, 80, 86, 89, 90, 100])
    monkeypatch.setattr(nvrtc, "version", lambda: (13, 0))
    with pytest.raises(nvrtc.CompileError, match=r"compute capability 7\.5: the kernels need 8\.0 or newer"):
        architecture(75)
    with pytest.raises(nvrtc.CompileError, match=r"NVRTC 13\.0 does not know this GPU \(sm_120\): pip install"):
        architecture(120)


@pytest.mark.parametrize(
    ("driver", "first"), [((12, 9), "libnvrtc.so.12"), ((13, 0), "libnvrtc.so.13"), (None, "libnvrtc.so.13")]
)
def test_the_newest_compiler_that_the_driver_takes_is_tried_first(driver, first, tmp_path, monkeypatch):
    (tmp_path / "lib64").mkdir()
    for major in (12, 13):
        (tmp_path / "lib64" / f"libnvrtc.so.{major}").touch()
    monkeypatch.setenv("CUDA_PATH", str(tmp_path))
    monkeypatch.setattr(nvrtc.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(nvrtc, "driver_version", lambda: driver)
    assert next(nvrtc._candidates()).endswith(first)
