"""An engine on this machine's GPU; its tensors are torch's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from deploy.optimize import NotHereError
from deploy.optimize.bindings import Kind, bindings, forgotten
from deploy.optimize.record import EngineRecord, read_record
from trainer.disk import sha256
from trainer.export.parity import Arrays

Tensors = dict[str, torch.Tensor]


class RunningEngine:
    """An engine that was loaded; one call at a time."""

    def __init__(self, engine: Path) -> None:
        """Load an engine.

        Raises:
            DataError: it has no record.
            NotHereError: it was built by another TensorRT, for another GPU, or it does not fit.
        """
        self.record = read_record(engine)
        kind = _checked(self.record, engine)
        self._module, self._logger = bindings(kind), forgotten(kind)
        self._runtime = self._module.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(engine.read_bytes())
        self._context = self._engine and self._engine.create_execution_context()
        if self._context is None:
            raise NotHereError(f"{engine}: {kind} does not load it: {self._reason()}")
        names = [self._engine.get_tensor_name(at) for at in range(self._engine.num_io_tensors)]
        # Of a tensor without elements torch gives no address, and TensorRT wants one.
        self._nowhere = torch.empty(1, dtype=torch.int64, device="cuda")
        self._outputs = [name for name in names if name in self.record.outputs]

    def run(self, feeds: Tensors) -> Tensors:
        """Begin to answer, on torch's current stream; the outputs by name.

        Args:
            feeds: on the GPU, and kept until it has answered.

        Raises:
            NotHereError: the engine does not take such lengths, or the GPU cannot run it.
        """
        outputs = self._bound(feeds)
        if not self._context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise NotHereError(f"{self.record.kind} does not run its engine: {self._reason()}")
        return outputs

    def answers(self, feeds: Arrays) -> Arrays:
        """The outputs by name, from and to the host's memory."""
        on_gpu = {name: torch.from_numpy(array).cuda() for name, array in feeds.items()}
        return {name: tensor.cpu().numpy() for name, tensor in self.run(on_gpu).items()}

    def _bound(self, feeds: Tensors) -> Tensors:
        """Where the answers to these will be."""
        for name, tensor in feeds.items():
            if not self._context.set_input_shape(name, tuple(tensor.shape)):
                raise NotHereError(
                    f"{name}: {list(tensor.shape)} is outside what the engine was built for, "
                    f"{self.record.inputs[name]}: build it with larger limits"
                )
        self._context.infer_shapes()
        outputs = {name: self._output(name) for name in self._outputs}
        for name, tensor in (feeds | outputs).items():
            address = tensor.data_ptr() or self._nowhere.data_ptr()
            self._context.set_tensor_address(name, address)
        return outputs

    def _output(self, name: str) -> torch.Tensor:
        kind = self._engine.get_tensor_dtype(name)
        types = {self._module.int64: torch.int64, self._module.float32: torch.float32}
        shape = tuple(self._context.get_tensor_shape(name))
        return torch.empty(shape, dtype=types[kind], device="cuda")

    def _reason(self) -> Any:
        return self._logger.last_error or "it does not say why"


def _checked(record: EngineRecord, engine: Path) -> Kind:
    """The TensorRT that can run an engine, if it is this machine's."""
    kind = Kind(record.kind)
    here = bindings(kind).__version__
    if here != record.version:
        raise NotHereError(
            f"{engine}: built by {kind} {record.version}, here is {here}: build it again"
        )
    if not torch.cuda.is_available():
        raise NotHereError(f"{engine.name}: runs on a GPU, and there is no GPU here")
    name = torch.cuda.get_device_name()
    if record.gpu not in (None, name):
        raise NotHereError(f"{engine}: built for {record.gpu}, here is {name}: build it again")
    if sha256(engine) != record.engine_sha256:
        raise NotHereError(f"{engine}: damaged, its checksum differs: build it again")
    return kind
