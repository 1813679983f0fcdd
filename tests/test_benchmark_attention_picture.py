"""What is drawn of flash attention."""

import numpy as np

from benchmarks import attention_picture


def test_tiles_of_a_causal_row():
    found = attention_picture.tiles(np.zeros(1024, int))
    assert [int((found == kind).sum()) for kind in range(3)] == [56, 56, 16]


def test_a_swizzled_unit_lies_in_its_own_banks_in_every_row():
    assert (attention_picture.banks(True).sum(axis=0) == 1).all()
    assert attention_picture.banks(False).sum(axis=0).max() == 8


def test_the_picture_is_written(tmp_path):
    assert attention_picture.main([str(tmp_path / "tiles.png")]) == 0
    assert (tmp_path / "tiles.png").stat().st_size > 10_000
