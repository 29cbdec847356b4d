from types import SimpleNamespace

from first_units import first_units

from edgemtl.compress.prune import methods


def test_half_of_each_group_stays_in_a_width_that_is_allowed():
    assert "first-units" in methods()  # by its name, as --method finds it
    found = first_units(SimpleNamespace(choices={"stem": (8, 6, 4, 2), "head": (3,)}))
    assert found.keep["stem"].tolist() == [True] * 4 + [False] * 4
    assert found.keep["head"].tolist() == [True] * 3
