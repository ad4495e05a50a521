"""Write the model of the start-up check: twice the input plus one, for whole and real numbers.

`python -m deploy.triton.check.build`, once; the result is kept in git.
"""

from pathlib import Path

import onnx
from onnx import TensorProto, helper

MODEL = Path(__file__).parent / "headwater_check" / "1" / "model.onnx"
TYPES = {"whole": TensorProto.INT64, "real": TensorProto.FLOAT}


def build() -> onnx.ModelProto:
    """A graph of two inputs [batch, length] and two outputs of the same shape."""
    nodes, inputs, outputs, constants = [], [], [], []
    for name, kind in TYPES.items():
        shape = ["batch", f"{name}_length"]
        inputs.append(helper.make_tensor_value_info(name, kind, shape))
        outputs.append(helper.make_tensor_value_info(f"{name}_result", kind, shape))
        constants.append(helper.make_tensor(f"{name}_two", kind, [], [2]))
        constants.append(helper.make_tensor(f"{name}_one", kind, [], [1]))
        nodes.append(helper.make_node("Mul", [name, f"{name}_two"], [f"{name}_double"]))
        double_and_one = [f"{name}_double", f"{name}_one"]
        nodes.append(helper.make_node("Add", double_and_one, [f"{name}_result"]))
    graph = helper.make_graph(nodes, "headwater_check", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


if __name__ == "__main__":
    model = build()
    onnx.checker.check_model(model, full_check=True)
    MODEL.write_bytes(model.SerializeToString())
