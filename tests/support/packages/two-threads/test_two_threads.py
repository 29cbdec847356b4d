from edgemtl import targets
from edgemtl.backends import registry


def test_the_target_is_found_by_name_and_its_backend_is_there():
    target = targets.load("two-threads")
    assert target.threads == 2
    assert registry.get(target.backend).availability().ok
