"""Planted bugs: each of them must make its family's tests fail (test_mutations.py)."""

from typing import NamedTuple


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

MUTATIONS = [*SOFTMAX]
