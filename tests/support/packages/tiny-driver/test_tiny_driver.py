from edgemtl.models.checkpoint import from_network, load_network, save
from edgemtl.models.registry import build


def test_the_family_is_found_by_name_and_computes_what_is_asked():
    network = build("tiny-driver", {"width": 4}).eval()
    images = network.example_input()
    shapes = {name: tuple(out.shape) for name, out in network(images).items()}
    assert shapes == {"road.logits": (1, 2, 8, 12), "wheel.degrees": (1, 1)}
    assert list(network(images, ["wheel"])) == ["wheel.degrees"]


def test_a_checkpoint_builds_it_again(tmp_path):
    save(from_network(build("tiny-driver", {"width": 4}).eval()), tmp_path / "driver.pt")
    assert load_network(tmp_path / "driver.pt").stem.conv.out_channels == 4
