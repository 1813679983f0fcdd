"""The map of words: the projections by their definitions, and no label on another."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pre_process.word2vec import map_picture
from pre_process.word2vec.map_picture import draw_map, groups, positions, unit
from pre_process.word2vec.projection import divergence_gradient, joint_probabilities, principal_components, t_sne


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    made: np.ndarray = np.random.default_rng(seed).normal(size=shape)
    return made


@pytest.mark.parametrize(("n", "d"), [(2, 1), (2, 5), (3, 50), (50, 3), (400, 100)])
def test_principal_components_are_eigenvectors_of_the_covariance(n: int, d: int) -> None:
    x = normal(n, d).astype(np.float32) * np.arange(1, d + 1)
    y = principal_components(x)
    spread = np.sort(np.linalg.eigvalsh(np.atleast_2d(np.cov(x.T, bias=True))))[::-1]
    wanted = [spread[0], spread[1] if d > 1 else 0]
    np.testing.assert_allclose(y.var(axis=0), wanted, rtol=1e-5, atol=1e-8 * spread[0])
    assert abs(y[:, 0] @ y[:, 1]) < 1e-8 * (y * y).sum()
    assert (np.abs(y.min(axis=0)) <= y.max(axis=0) + 1e-6).all()


def test_each_point_has_the_wanted_number_of_neighbours() -> None:
    x = normal(80, 10) * 1e-3
    x[:5] *= 50
    p = joint_probabilities(x, 12.0)
    assert p.sum() == pytest.approx(1)
    np.testing.assert_array_equal(p, p.T)
    assert not p.diagonal().any()
    np.testing.assert_allclose(joint_probabilities(x * 7 + 3, 12.0), p, atol=1e-9)  # neither scale nor place matter
    apart = np.linalg.norm(x[:, None] - x, axis=2) + np.diag(np.full(80, np.inf))
    assert (p[np.arange(80), apart.argmin(axis=1)] > np.median(p, axis=1)).all()


def test_the_perplexity_is_met() -> None:
    """In two distant groups of 21 points, all equally far from each other, each point has 20 equal neighbours."""
    x = np.hstack([np.repeat(np.eye(2) * 100, 21, axis=0), np.tile(np.eye(21), (2, 1))])
    p = joint_probabilities(x, 20.0)
    np.testing.assert_allclose(p[0, 1:21], 1 / (42 * 20), rtol=1e-3)
    assert p[0, 21:].max() < 1e-6


def test_the_gradient_is_the_slope_of_the_divergence() -> None:
    p, y, v = joint_probabilities(normal(30, 5), 8.0), normal(30, 2, seed=1), normal(30, 2, seed=2)

    def divergence(y: np.ndarray) -> float:
        w = 1 / (1 + ((y[:, None] - y) ** 2).sum(axis=2))
        np.fill_diagonal(w, 0)
        q, off = w / w.sum(), ~np.eye(len(y), dtype=bool)
        return float((p[off] * np.log(p[off] / q[off])).sum())

    h = 1e-5
    slope = (divergence(y + h * v) - divergence(y - h * v)) / (2 * h)
    assert (divergence_gradient(p, y) * v).sum() == pytest.approx(slope, rel=1e-6)


def test_groups_stay_together_and_apart() -> None:
    x = np.vstack([normal(25, 20, seed=seed) * 0.1 + np.eye(4, 20)[seed] * 2 for seed in range(4)])
    y, label = t_sne(x), np.repeat(range(4), 25)
    centres = np.stack([y[label == i].mean(axis=0) for i in range(4)])
    assert (((y[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1) == label).all()
    np.testing.assert_array_equal(t_sne(x), y)
    assert len({tuple(np.unique(groups(x)[label == i])) for i in range(4)}) == 4


@pytest.mark.parametrize("method", ["pca", "t-sne"])
@pytest.mark.parametrize("units", [np.zeros((6, 3)), np.ones((5, 1)), np.repeat(normal(2, 4), 3, axis=0)])
def test_equal_vectors_have_places(method: str, units: np.ndarray) -> None:
    places = positions(unit(units), method)  # type: ignore[arg-type]
    assert places.shape == (len(units), 2)
    assert np.isfinite(places).all()


def test_what_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="a map of one word shows nothing"):
        positions(np.ones((1, 3)), "pca")
    for n in (3, 5001):
        with pytest.raises(ValueError, match=f"t-SNE takes 4 to 5,000 points, not {n:,}"):
            positions(np.ones((n, 3)), "t-sne")
    with pytest.raises(ValueError, match="no method 'umap': use pca or t-sne"):
        positions(np.ones((3, 3)), "umap")  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:Glyph")  # the test measures the labels too
@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_no_label_lies_on_another(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Axes] = []
    plain = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **settings: (drawn.extend(self.axes), plain(self, *args, **settings))[1]
    )
    words, places = [f"word{i}" for i in range(150)] + ["$x$", "中文", "<&>"], normal(153, 2) ** 3
    n = draw_map(tmp_path / f"map{suffix}", words, places, np.arange(153) % 10, "a $ map")
    [axes] = drawn
    boxes = np.array([text.get_window_extent().extents for text in axes.texts])
    assert len(boxes) == n
    assert 20 < n < 153  # the middle is crowded
    overlap = (boxes[:, None, :2] < boxes[:, 2:] - 0.01).all(axis=2) & (boxes[:, None, 2:] - 0.01 > boxes[:, :2]).all(
        axis=2
    )
    assert overlap.sum() == n  # each with itself
    frame = axes.get_window_extent().extents
    assert (boxes[:, :2] >= frame[:2] - 0.01).all()
    assert (boxes[:, 2:] <= frame[2:] + 0.01).all()
    assert [file.name for file in tmp_path.iterdir()] == [f"map{suffix}"]
    assert (tmp_path / f"map{suffix}").read_bytes()[:4] in (b"\x89PNG", b"<?xm", b"%PDF")


def test_of_many_words_only_the_first_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_picture, "_TRIED", 3)
    places = np.array([[x, y] for x in range(3) for y in range(3)], float)
    assert draw_map(tmp_path / "map.png", list("abcdefghi"), places, np.zeros(9, int), "") == 3
