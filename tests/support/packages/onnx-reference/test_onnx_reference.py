import numpy as np
import onnx
from onnx import TensorProto, helper

from edgemtl.backends import registry
from edgemtl.targets import Target


def test_a_graph_is_compiled_and_answers(tmp_path):
    image, answer = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 4, 4])
        for name in ("images", "answer")
    )
    node = helper.make_node("Neg", ["images"], ["answer"])
    graph = helper.make_graph([node], "negative", [image], [answer])
    onnx.save(helper.make_model(graph), tmp_path / "negative.onnx")
    backend = registry.get("onnx-reference")
    target = Target(name="any", description="any", backend=backend.name)
    (tmp_path / "built").mkdir()
    artefact = backend.compile(tmp_path / "negative.onnx", target, tmp_path / "built")
    images = np.ones((1, 3, 4, 4), np.float32)
    assert (backend.load(artefact).run(images)["answer"] == -1).all()
