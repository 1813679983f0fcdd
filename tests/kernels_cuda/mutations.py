"""Planted bugs: each of them must make its family's tests fail (test_mutations.py)."""

from typing import NamedTuple

from tests.kernels_cuda.mutations_attention import ATTENTION
from tests.kernels_cuda.mutations_elementwise import ELEMENTWISE


class Mutation(NamedTuple):
    """In `file` of nanograd/kernels/cuda the text `old`, which stands there once, becomes `new`.

    test  what must fail then: a file in this folder, or one test of it (file::test)
    """

    file: str
    name: str
    old: str
    new: str
    test: str


SOFTMAX = [
    Mutation(
        "nk.h",
        "the block's sum is read before all warps have written theirs",
        "  if (lane == 0) sums[warp] = v;\n  __syncthreads();",
        "  if (lane == 0) sums[warp] = v;",
        "test_emulator.py::test_both_kinds_of_fibers_give_the_same",
    ),
    Mutation(
        "nk.h",
        "the block's sum is overwritten by the next one while it is read",
        "  __syncthreads();  // what an earlier call left has been read by all\n",
        "",
        "test_emulator.py::test_both_kinds_of_fibers_give_the_same",
    ),
    Mutation(
        "nk.h",
        "the block's maximum is overwritten by the next one while it is read",
        "  __syncthreads();  // as above\n",
        "",
        "test_emulator.py::test_both_kinds_of_fibers_give_the_same",
    ),
    Mutation(
        "nk.h",
        "rounding by chance makes a number of NaN",
        "  if (!is_finite(x)) return from_float<bf16>(x);\n",
        "",
        "test_emulator.py::test_rounding_by_chance_goes_to_one_of_two_neighbours_and_is_right_on_average",
    ),
    Mutation(
        "softmax.cu",
        "a masked row is ∞ − ∞",
        "return is_finite(m) ? m : 0.f;",
        "return m;",
        "test_cuda_softmax.py::test_extremes",
    ),
    Mutation(
        "softmax.cu",
        "the temperature is left out of the gradient",
        "from_float<T>(s * to_float(ys.v[k]) * (to_float(dys.v[k]) - mean))",
        "from_float<T>(to_float(ys.v[k]) * (to_float(dys.v[k]) - mean))",
        "test_cuda_softmax.py::test_rows_of_any_length",
    ),
    Mutation(
        "softmax.cu",
        "the mean is one warp's",
        "  mean = block_sum(mean);",
        "  mean = warp_sum(mean);",
        "test_cuda_softmax.py::test_rows_of_any_length",
    ),
    Mutation(
        "softmax.cu",
        "packs are read wherever the row begins",
        "bool packs = in_packs(dy, C) && in_packs(y, C) && in_packs(dx, C);\n  packs ? softmax_slope_row",
        "bool packs = C % widest<T> == 0;\n  packs ? softmax_slope_row",
        "test_cuda_softmax.py::test_rows_that_begin_anywhere",
    ),
    Mutation(
        "softmax.cu",
        "the logarithm's gradient has the wrong sign",
        "from_float<T>(s * (to_float(dys.v[k]) - __expf(to_float(ys.v[k])) * total))",
        "from_float<T>(s * (to_float(dys.v[k]) + __expf(to_float(ys.v[k])) * total))",
        "test_cuda_softmax.py::test_rows_of_any_length",
    ),
]

NORMS_AND_LOSSES = [
    Mutation(
        "normalization.cu",
        "the warps of a row do not wait for each other",
        "  __syncthreads();\n  two total",
        "  two total",
        "test_cuda_normalization.py::test_rows_of_any_width",
    ),
    Mutation(
        "normalization.cu",
        "what warps exchange is overwritten at the next turn",
        "exchange[turn % 2]",
        "exchange[0]",
        "test_cuda_normalization.py::test_rows_of_any_width",
    ),
    Mutation(
        "normalization.cu",
        "the variance is about 0",
        "float d = to_float(x[i].v[k]) - mean;",
        "float d = to_float(x[i].v[k]);",
        "test_cuda_normalization.py::test_a_large_mean_costs_no_digits",
    ),
    Mutation(
        "normalization.cu",
        "teams add to sums that are still being written",
        "    }\n    __syncthreads();\n  }\n",
        "    }\n  }\n",
        "test_cuda_normalization.py::test_more_rows_than_all_blocks_take_at_a_time",
    ),
    Mutation(
        "normalization.cu",
        "a gradient that waits is overwritten",
        "if (add) load_pieces(out, dx + place, end);",
        "",
        "test_cuda_normalization.py::test_gradients_are_added_to_those_that_wait",
    ),
    Mutation(
        "head_norm.cu",
        "half of a head is summed",
        "int offset = lanes / 2",
        "int offset = lanes / 4",
        "test_cuda_head_norm.py::test_heads_of_any_width",
    ),
    Mutation(
        "head_norm.cu",
        "the first head of the values is normalized too",
        "  bool value = head >= 2 * H;\n#pragma",
        "  bool value = head > 2 * H;\n#pragma",
        "test_cuda_head_norm.py::test_heads_of_any_width",
    ),
    Mutation(
        "head_norm.cu",
        "the slope keeps a part along the head",
        "- n * mean)",
        "- mean)",
        "test_cuda_head_norm.py::test_heads_of_any_width",
    ),
    Mutation(
        "loss.cu",
        "the target's logit is read when its slope may stand there",
        "losses[row] = loss_of(of_row, at_target, s);",
        "losses[row] = loss_of(of_row, logit_at(z, target, V), s);",
        "test_cuda_output_layer.py::test_the_output_layer_in_chunks",
    ),
    Mutation(
        "loss.cu",
        "the threads' sums belong to different maxima",
        "block_sum(mine.total * __expf(mine.m - m))",
        "block_sum(mine.total)",
        "test_cuda_loss.py::test_cross_entropy",
    ),
    Mutation(
        "loss.cu",
        "z-loss has no slope",
        "(1.f + 2.f * s.z_loss * (m + logf(total)))",
        "1.f",
        "test_cuda_loss.py::test_cross_entropy",
    ),
    Mutation(
        "loss.cu",
        "a target that is no token is read",
        "return target >= 0 && target < V ?",
        "return true ?",
        "test_cuda_loss.py::test_a_target_that_is_no_token_gives_nan_and_reads_nothing",
    ),
    Mutation(
        "loss.cu",
        "an ignored row keeps what was in memory",
        "  if (target == ignore) return write_zeros(z, dz, V);\n",
        "",
        "test_cuda_loss.py::test_no_real_target",
    ),
    Mutation(
        "clip.cu",
        "sums are halved before all have arrived",
        "    __syncthreads();\n",
        "",
        "test_cuda_clip.py::test_squares",
    ),
    Mutation(
        "clip.cu",
        "blocks add up in float32",
        "NK_SHARED(double, sums",
        "NK_SHARED(float, sums",
        "test_cuda_clip.py::test_large_partial_sums_meet_in_float64",
    ),
    Mutation(
        "clip.cu",
        "what fills no pack is left out",
        "i64 i = packs * widest<T> + first; i < n;",
        "i64 i = packs * widest<T> + first; i < packs;",
        "test_cuda_clip.py::test_squares",
    ),
]

MATRIX = [
    Mutation(
        "matrix.cu",
        "a warp's sums are read before it has written them",
        "  __syncthreads();\n  for (int i = threadIdx.x; i < 32 * W;",
        "  for (int i = threadIdx.x; i < 32 * W;",
        "test_cuda_matrix.py::test_sums_over_rows_of_any_number_and_length",
    ),
    Mutation(
        "matrix.cu",
        "the last warp is forgotten",
        "w < WARPS; w++",
        "w < WARPS - 1; w++",
        "test_cuda_matrix.py::test_sums_over_rows_of_any_number_and_length",
    ),
    Mutation(
        "matrix.cu",
        "two blocks share a row",
        "last = first + share < N ? first + share : N;",
        "last = first + share < N ? first + share + 1 : N;",
        "test_cuda_matrix.py::test_sums_over_rows_of_any_number_and_length",
    ),
    Mutation(
        "matrix.cu",
        "columns beyond the row are written",
        "    if (blockIdx.x * 32 * W + i < C) sums",
        "    sums",
        "test_cuda_matrix.py::test_sums_over_rows_of_any_number_and_length",
    ),
    Mutation(
        "matrix.cu",
        "what was there is lost",
        "accumulate ? to_float(db[c]) + sum : sum",
        "sum",
        "test_cuda_matrix.py::test_sums_over_rows_of_any_number_and_length",
    ),
    Mutation(
        "matrix.cu",
        "packs are read off the 16-byte grid",
        "in_packs(dy, C) ? sum_block",
        "C % widest<T> == 0 ? sum_block",
        "test_cuda_matrix.py::test_sums_of_rows_that_begin_anywhere",
    ),
]

MUTATIONS = [
    *SOFTMAX,
    *MATRIX,
    *NORMS_AND_LOSSES,
    *(
        Mutation(f"{family}.cu", name, old, new, f"test_cuda_{family}.py::{test}")
        for family, bugs in ELEMENTWISE.items()
        for name, old, new, test in bugs
    ),
    *(Mutation(file, name, old, new, f"test_cuda_attention.py::{test}") for file, name, old, new, test in ATTENTION),
]
