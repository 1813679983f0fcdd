"""Attention by cuDNN: on a stand-in the formula's numbers; with the real interface, graphs of GPT-2 that validate."""

import sys
from typing import Any

import numpy as np
import pytest

from nanograd import backend, kernels, ops, terminal, train
from nanograd.kernels.cuda import cudnn_attention
from nanograd.kernels.cuda.cudnn_attention import CudnnError, Shape, backward_graph, forward_graph
from nanograd.settings import TrainConfig, check_precision
from tests.kernels_cuda.emulated import assert_close, bfloat16, by_formula, numbers, on_device, one_schedule

H, D = 2, 8
SIZES = (2, 5, 3 * H * D)


@pytest.fixture
def cudnn(device, monkeypatch):
    """cuDNN's stand-in, chosen."""
    from tests import fake_cudnn

    monkeypatch.setitem(sys.modules, "cudnn", fake_cudnn)
    cudnn_attention.forget()
    cudnn_attention.use(device, True)
    del fake_cudnn.executed[:]
    yield fake_cudnn
    cudnn_attention.use(device, False)


def attend(device: Any, qkv: Any, dy: Any, **options: Any) -> tuple[Any, Any]:
    y, saved, rule = ops.packed_attention.fastest(device, [qkv], options)
    return y, rule.backward(device, dy, *saved, needs=(True,), **options)[0]


@one_schedule
@pytest.mark.parametrize("dtype", [bfloat16, np.dtype(np.float16)], ids=str)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("scale", [None, 0.5])
def test_it_is_the_formula(device, cudnn, dtype, causal, scale):
    options = {"n_heads": H, "causal": causal, "scale": scale}
    qkv, dy = numbers(SIZES, dtype), numbers((2, 5, H * D), dtype, 1)
    y, dqkv = attend(device, on_device(qkv), on_device(dy), **options)
    right, (expected,) = by_formula(ops.packed_attention, [qkv], dy, **options)
    assert len(cudnn.executed) == 2
    assert y.dtype == dqkv.dtype == dtype
    assert_close(y, right, ulps=2)
    assert_close(dqkv, expected, ulps=4, floor=np.abs(expected).max())


@one_schedule
def test_what_it_does_not_know_is_left_to_others(device, cudnn):
    options: dict[str, Any] = {"n_heads": H, "causal": True}
    qkv = on_device(numbers(SIZES, bfloat16))
    refused = [
        ([on_device(numbers(SIZES, np.float32))], options),
        ([qkv, on_device(np.ones((2, 1, 1, 5), bool))], options),
        ([qkv, None, on_device(np.zeros((2, 5), np.int32))], options),
        ([qkv], {**options, "dropout": 0.5, "dropout_key": (1, 2)}),
        ([qkv], {**options, "slopes": (0.5, 0.25)}),
        ([qkv], {**options, "n_heads": 4}),
        ([qkv[:, ::2]], options),
        ([qkv[:0]], options),
    ]
    for arrays, settings in refused:
        assert cudnn_attention._forward(device, *arrays, **settings) is NotImplemented
    assert cudnn.executed == []


@one_schedule
def test_it_is_asked_first_and_only_if_chosen(device, cudnn):
    own = [rule for rule in ops.packed_attention.twins[device] if rule.forward is not cudnn_attention._forward]
    assert ops.packed_attention.twins[device][0].forward is cudnn_attention._forward
    cudnn_attention.use(device, False)
    assert ops.packed_attention.twins[device] == own


@one_schedule
def test_a_plan_is_made_once_and_not_while_a_graph_is_recorded(device, cudnn):
    options = {"n_heads": H, "causal": True}
    qkv, dy = on_device(numbers(SIZES, bfloat16)), on_device(numbers((2, 5, H * D), bfloat16, 1))
    with device.cuda.Stream(non_blocking=True) as stream, device.cuda.using_allocator(device.cuda.MemoryPool().malloc):
        first = attend(device, qkv, dy, **options)
        handles = len(cudnn.handles)
        stream.begin_capture()
        second = attend(device, qkv, dy, **options)
        with pytest.raises(CudnnError, match="can't plan attention while a CUDA graph is recorded: run the step once"):
            attend(device, qkv[:1], dy[:1], **options)
        stream.end_capture().launch()
    assert len(cudnn.handles) == handles
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.held, b.held)


def test_without_it_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cudnn", None)
    with pytest.raises(backend.DeviceError, match=r"^attention by cuDNN needs .*: pip install 'nanograd\[cudnn\]'"):
        kernels.check_attention_kernel("cudnn", "cuda")
    with pytest.raises(ValueError, match="--attention-kernel cudnn is for CUDA devices"):
        kernels.check_attention_kernel("cudnn", "cpu")
    kernels.check_attention_kernel("own", "cpu")
    with pytest.raises(ValueError, match="cudnn computes in 16 bits: add --precision bf16"):
        check_precision(TrainConfig(attention_kernel="cudnn"))
    check_precision(TrainConfig(attention_kernel="cudnn", precision="bf16"))


def test_the_command_refuses_it_on_the_cpu(tmp_path, capsys):
    argv = ["--attention-kernel", "cudnn", "--precision", "bf16", "--device", "cpu", "--out", str(tmp_path / "run")]
    assert terminal.run(train.main, argv) == 2
    assert "--attention-kernel cudnn is for CUDA devices" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("causal", [True, False])
def test_graphs_of_gpt_2_validate(dtype, causal):
    """The real interface checks shapes, strides and types without a driver (from 1.32 on without libcudnn too)."""
    real = pytest.importorskip("cudnn", reason="pip install nvidia-cudnn-frontend")
    shape = Shape(dtype, B=64, T=1024, H=12, D=64, causal=causal, scale=0.125)
    try:
        forth = forward_graph(real, shape)
    except RuntimeError as error:
        pytest.skip(f"libcudnn is not here: {error}")
    back = backward_graph(real, shape)
    assert forth.tensors["q"].get_stride() == [1024 * 2304, 64, 2304, 1]
    assert back.tensors["dq"].get_stride() == [1024 * 2304, 64, 2304, 1]
    assert forth.tensors["stats"].get_dim() == [64, 12, 1024, 1]
    with pytest.raises(Exception, match="multiple of 8"):
        forward_graph(real, shape._replace(D=60))
