"""Planted bugs in the kernels that go number by number: see mutations.py.

For each family, that is NAME.cu and test_cuda_NAME.py: what is wrong, the text that becomes another one, and the test
that has to notice.
"""

ELEMENTWISE: dict[str, list[tuple[str, str, str, str]]] = {
    "activation": [
        ("gelu: the left half has the right half's Φ", "x < 0.f ? tail : 1.f - tail", "1.f - tail", "test_any_length"),
        (
            "what is left over behind the packs is not computed",
            "    for (; i < n; i++) y[i] = from_float<T>(at(to_float(x[i])).value);\n",
            "",
            "test_any_length",
        ),
        (
            "swiglu: the two gradients change places",
            "    store_pack(dx + at, dg);\n    store_pack(dx + at + F, du);",
            "    store_pack(dx + at, du);\n    store_pack(dx + at + F, dg);",
            "test_any_length",
        ),
        (
            "swiglu: rows of a length that packs do not divide are read in packs",
            "F % WIDE == 0 ? swiglu_rows<T, WIDE>",
            "true ? swiglu_rows<T, WIDE>",
            "test_any_length",
        ),
    ],
    "dropout": [
        (
            "eight numbers share the words of four",
            "philox(u64(start + k) / 4,",
            "philox(u64(start) / 4,",
            "test_the_same_bits_as_the_formula",
        ),
        (
            "words are dealt out backwards",
            "random.v[j] >= threshold",
            "random.v[3 - j] >= threshold",
            "test_the_same_bits_as_the_formula",
        ),
        (
            "the call on the device is not read",
            "  if (call_there) call = *call_there;\n",
            "",
            "test_a_call_that_lies_on_the_device",
        ),
    ],
    "indexing": [
        (
            "a pass begins before the last one has ended",
            "    if (there) to.ids[place] = id, to.places[place] = from.places[i];\n  }\n  __syncthreads();\n",
            "    if (there) to.ids[place] = id, to.places[place] = from.places[i];\n  }\n",
            "test_vocabularies_of_one_two_and_three_digits",
        ),
        (
            "sums of the other warps are read too early",
            "  if (lane == 31) of_warp[warp] = before;\n  __syncthreads();\n",
            "  if (lane == 31) of_warp[warp] = before;\n",
            "test_any_shape",
        ),
        (
            "a run over more than two chunks loses the rest",
            "sorted[chunk * CHUNK] == id; chunk++)",
            "sorted[chunk * CHUNK] == id; chunk += 2)",
            "test_runs_over_many_chunks",
        ),
        ("each run of a chunk counts as one from before", "    from_before = false;\n", "", "test_any_shape"),
        (
            "an id outside of the vocabulary is looked up as the last one",
            "known ? load_pack<WIDE>(weight + id * C + j) : unknown",
            "load_pack<WIDE>(weight + (known ? id : V - 1) * C + j)",
            "test_an_id_outside_of_the_vocabulary_is_seen",
        ),
    ],
    "rotary": [
        ("turned the other way round", "x1 * by.cos - x2 * by.sin", "x1 * by.cos + x2 * by.sin", "test_packed"),
        ("cosines are read before they are there", "  __syncthreads();\n", "", "test_packed"),
        (
            "positions before 0 lose their sign",
            "u64(position) * speed",
            "u64(u32(position)) * speed",
            "test_positions_far_out",
        ),
        (
            "angles in float32",
            "float(int(phase >> 32)) * 4.6566128730773926e-10f",
            "float(position) * float(speed) * 1.0842021724855044e-19f",
            "test_positions_far_out",
        ),
    ],
    "optim": [
        ("AdamW without the second correction", "sqrtf(vk[k] * rise_2)", "sqrtf(vk[k])", "test_a_step"),
        ("Lion without decay", "wk[k] = keep * wk[k] - (between", "wk[k] = wk[k] - (between", "test_a_step"),
        ("the lower half of a random word rounds", "random.v[k] >> 16).bits", "random.v[k]).bits", "test_a_step"),
        (
            "a factor that is no number is used",
            "(*step.scale_there != 0.f && is_finite(*step.scale_there))",
            "(*step.scale_there != 0.f)",
            "test_a_step_that_is_not_taken",
        ),
        (
            "chance depends on where a part begins",
            "GROUP, u64(group)}",
            "GROUP, u64(group - step.first / GROUP)}",
            "test_a_step",
        ),
        (
            "SGD looks ahead without Nesterov",
            "nesterov ? gk[k] + momentum * mk[k] : mk[k]",
            "gk[k] + momentum * mk[k]",
            "test_a_step",
        ),
    ],
}
