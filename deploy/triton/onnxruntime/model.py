# ruff: noqa: INP001 (Triton imports this file by itself, under the name `model`)
"""Triton's backend "onnxruntime", in Python: runs `<model>/<version>/model.onnx`.

The same repository is served by NVIDIA's container with its native backend of that name; so the
parameters bear that backend's names. Triton's dynamic batch arrives here as a list of requests:
they are laid end to end along axis 0, run at once, and their answers cut apart again.

Rows of requests that differ in another axis (lists of candidates) are filled with zeros up to the
longest; an output axis of the same symbolic name is cut back to each request's own length.
"""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb

Feeds = dict[str, np.ndarray]


class TritonPythonModel:
    """One instance of one version of a model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the model. What is raised here is the answer to the load request."""
        _refuse_numpy_2()
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        # A second of work: in a thread, because the priority of one cannot be raised again. What a
        # session starts itself would inherit it.
        alone = _parameter(config, "intra_op_thread_count", 1) == 1
        with ThreadPoolExecutor(1, initializer=_give_way if alone else None) as aside:
            self._session = aside.submit(_open, config, folder).result()
        self._batches = config["max_batch_size"] > 0
        self._inputs = {tensor["name"]: tensor for tensor in config["input"]}
        self._output_names = [tensor["name"] for tensor in config["output"]]
        self._check_names()
        self._ragged = self._ragged_outputs()

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request, in their order."""
        if len(requests) == 1 or not self._batches:
            return [self._run_alone(request) for request in requests]
        try:
            return self._run_batch(requests)
        except Exception:  # noqa: BLE001 (whichever request it is answers for it below)
            return [self._run_alone(request) for request in requests]

    def _run_alone(self, request: Any) -> Any:
        try:
            names = self._output_names_for(request)
            outputs = self._session.run(names, self._feeds(request))
        except Exception as error:  # noqa: BLE001 (handed on to whoever asked)
            return pb.InferenceResponse([], pb.TritonError(" ".join(str(error).split())))
        return _response(names, outputs)

    def _run_batch(self, requests: list[Any]) -> list[Any]:
        feeds = [self._feeds(request) for request in requests]
        rows = [len(next(iter(one.values()))) for one in feeds]
        joined = {name: _concatenate([one[name] for one in feeds]) for name in feeds[0]}
        wanted = [self._output_names_for(request) for request in requests]
        names = [name for name in self._output_names if any(name in one for one in wanted)]
        outputs = dict(zip(names, self._session.run(names, joined), strict=True))
        responses, start = [], 0
        for request_names, own, count in zip(wanted, feeds, rows, strict=True):
            cut = [self._cut(outputs, name, start, count, own) for name in request_names]
            responses.append(_response(request_names, cut))
            start += count
        return responses

    def _cut(self, outputs: Feeds, name: str, start: int, count: int, own: Feeds) -> np.ndarray:
        """One request's rows of an output, without what was filled up for longer ones."""
        output = outputs[name][start : start + count]
        for axis, source, source_axis in self._ragged[name]:
            length = own[source].shape[source_axis]
            if length < output.shape[axis]:
                output = output.take(range(length), axis)
        return output

    def _feeds(self, request: Any) -> Feeds:
        feeds = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        if len(feeds) < len(self._inputs):
            rows = len(next(iter(feeds.values())))
            for name, declared in self._inputs.items():
                if name not in feeds:
                    feeds[name] = _omitted_input(declared, rows if self._batches else None)
        return feeds

    def _output_names_for(self, request: Any) -> list[str]:
        return list(request.requested_output_names()) or self._output_names

    def _check_names(self) -> None:
        """Config and graph must agree, or the first request would find out."""
        graph_inputs = {one.name for one in self._session.get_inputs()}
        graph_outputs = {one.name for one in self._session.get_outputs()}
        for kind, config, graph in (
            ("inputs", set(self._inputs), graph_inputs),
            ("outputs", set(self._output_names) & graph_outputs, set(self._output_names)),
        ):
            if config != graph:
                raise pb.TritonModelException(
                    f"config.pbtxt and model.onnx disagree on {kind}: {sorted(config ^ graph)}"
                )

    def _ragged_outputs(self) -> dict[str, list[tuple[int, str, int]]]:
        """Of each output: the axes whose length is that of an input's axis."""
        lengths = {
            dim: (one.name, axis)
            for one in self._session.get_inputs()
            for axis, dim in enumerate(one.shape)
            if axis and isinstance(dim, str)
        }
        outputs = {one.name: enumerate(one.shape) for one in self._session.get_outputs()}
        return {
            name: [(axis, *lengths[dim]) for axis, dim in axes if dim in lengths]
            for name, axes in outputs.items()
        }


def _refuse_numpy_2() -> None:
    if int(np.__version__.split(".")[0]) >= 2:
        raise pb.TritonModelException(
            f"numpy {np.__version__} in Triton's environment: with numpy 2 this Triton answers "
            "with empty tensors and no error; it needs numpy below 2"
        )


def _give_way() -> None:
    """Let the versions that answer meanwhile go first: of Linux's threads each has a priority."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def _open(config: dict[str, Any], version: Path) -> Any:
    import onnxruntime as ort  # noqa: PLC0415 (half of the second)

    options = ort.SessionOptions()
    options.intra_op_num_threads = _parameter(config, "intra_op_thread_count", 1)
    options.inter_op_num_threads = _parameter(config, "inter_op_thread_count", 1)
    path = version / (config.get("default_model_filename") or "model.onnx")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _parameter(config: dict[str, Any], name: str, default: int) -> int:
    return int(config.get("parameters", {}).get(name, {}).get("string_value") or default)


def _omitted_input(declared: dict[str, Any], rows: int | None) -> np.ndarray:
    """An optional input that a request left out: zeros, of no length where that may vary."""
    dims = [max(0, int(dim)) for dim in declared["dims"]]
    kind = pb.triton_string_to_numpy(declared["data_type"])
    return np.zeros(dims if rows is None else [rows, *dims], kind)


def _concatenate(parts: list[np.ndarray]) -> np.ndarray:
    """Arrays end to end along axis 0, filled with zeros where other axes differ."""
    shapes = {part.shape[1:] for part in parts}
    if len(shapes) == 1:
        return np.concatenate(parts)
    longest = [max(lengths) for lengths in zip(*shapes, strict=True)]
    joined = np.zeros((sum(len(part) for part in parts), *longest), parts[0].dtype)
    start = 0
    for part in parts:
        rows = slice(start, start + len(part))
        joined[(rows, *(slice(length) for length in part.shape[1:]))] = part
        start += len(part)
    return joined


def _response(names: list[str], outputs: list[np.ndarray]) -> Any:
    tensors = [pb.Tensor(name, out) for name, out in zip(names, outputs, strict=True)]
    return pb.InferenceResponse(tensors)
