"""Start indices: the lattice rule, the authors' presets, and the depths that follow from them."""

from __future__ import annotations

import pytest

from chords_core import InvalidInput, authors_starts, check_starts, hit_depth, lattice_starts

# From ALGORITHM: (steps, cores, q) -> starts.
EXAMPLES = {
    (50, 4, 2): [0, 14, 23, 32],
    (50, 4, 3): [0, 10, 18, 26],
    (50, 6, 2): [0, 8, 15, 22, 29, 36],
    (50, 8, 2): [0, 10, 15, 20, 25, 30, 35, 40],
    (50, 8, 3): [0, 5, 10, 15, 20, 25, 30, 35],
    (28, 4, 2): [0, 8, 13, 18],
    (28, 8, 2): [0, 4, 7, 10, 13, 16, 19, 22],
    (20, 4, 3): [0, 5, 8, 11],
    (20, 8, 2): [0, 4, 6, 8, 10, 12, 14, 16],
    (50, 2, 2): [0, 16],
    (50, 1, 2): [0],
}


@pytest.mark.parametrize(("case", "starts"), EXAMPLES.items(), ids=str)
def test_lattice_examples(case: tuple[int, int, int], starts: list[int]) -> None:
    """The published examples of the rule."""
    assert lattice_starts(*case) == starts


def test_lattice_rule() -> None:
    """Where the steps leave room, the starts follow the rule, and the first hit has the depth K - 1 + q*d."""
    for steps in range(1, 61):
        for cores in range(3, 13):
            for q in range(1, 5):
                d = -(-steps // (cores + q))
                while steps - (cores - 2 + q) * d < 1 and d > 0:
                    d -= 1
                if d > 0:
                    expected = [0] + [steps - (q + cores - k) * d for k in range(2, cores + 1)]
                    assert lattice_starts(steps, cores, q) == expected
                    assert hit_depth(steps, expected, cores) == cores - 1 + q * d


def test_lattice_always_fits() -> None:
    """For any steps and cores the starts are valid, no more than the cores, and no hit is later than N."""
    for steps in range(1, 61):
        for cores in range(1, 13):
            for q in range(1, 5):
                starts = lattice_starts(steps, cores, q)
                assert check_starts(starts, steps) == tuple(starts)
                assert len(starts) == min(cores, steps)
                assert all(hit_depth(steps, starts, k + 1) <= steps for k in range(len(starts)))


@pytest.mark.parametrize(("name", "args"), [("steps", (0, 4)), ("cores", (50, 0)), ("q", (50, 4, 0))])
def test_lattice_needs_positive_numbers(name: str, args: tuple[int, ...]) -> None:
    """A zero is refused by name."""
    with pytest.raises(InvalidInput, match=f"^{name}: "):
        lattice_starts(*args)


def test_authors_presets() -> None:
    """For 50 steps, the published presets with their published depths."""
    assert authors_starts(50, 4) == [0, 8, 16, 32]
    assert authors_starts(50, 8) == [0, 2, 4, 8, 16, 24, 32, 40]
    assert [hit_depth(50, [0, 8, 16, 32], core) for core in (4, 3, 2, 1)] == [21, 36, 43, 50]


@pytest.mark.parametrize("cores", [4, 8])
def test_authors_presets_scale(cores: int) -> None:
    """For other steps the presets keep their proportions within half a step, as far as cores must differ."""
    at_50 = authors_starts(50, cores)
    for steps in range(cores, 200):
        starts = authors_starts(steps, cores)
        assert check_starts(starts, steps) == tuple(starts)
        assert len(starts) == cores
        if steps >= 50:
            assert all(abs(i - j * steps / 50) <= 0.5 for i, j in zip(starts, at_50, strict=True))


@pytest.mark.parametrize(
    ("name", "args"), [("cores", (50, 3)), ("cores", (50, 0)), ("steps", (7, 8)), ("steps", (3, 4))]
)
def test_authors_presets_refuse(name: str, args: tuple[int, int]) -> None:
    """Other numbers of cores, and fewer steps than cores, are refused by name."""
    with pytest.raises(InvalidInput, match=f"^{name}: "):
        authors_starts(*args)
