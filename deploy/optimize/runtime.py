"""TensorRT at run time: the installed package, and an engine on this machine's GPU.

Either the full TensorRT or TensorRT-RTX, which has the same Python API. Triton's backend runs
engines of the full one; TensorRT-RTX builds without a GPU. An engine's tensors are torch's.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import structlog
import torch

from deploy.optimize import EngineUnavailableError
from deploy.optimize.engine_record import EngineRecord, read_record
from trainer.disk import sha256
from trainer.export.onnx import Arrays

Tensors = dict[str, torch.Tensor]
log = structlog.get_logger()


class TensorRTPackage(StrEnum):
    """The two packages, by the names that they are imported by."""

    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt_rtx"


def installed_packages() -> list[TensorRTPackage]:
    """Those that are installed, the full one first."""
    return [package for package in TensorRTPackage if _import_if_installed(package)]


def load_package(package: TensorRTPackage) -> ModuleType:
    """The package.

    Raises:
        NotHereError: it is not installed.
    """
    module = _import_if_installed(package)
    if module is None:
        raise EngineUnavailableError(
            f"{package} is not installed: install NVIDIA's package for this machine's CUDA, or "
            "leave the version on ONNX Runtime"
        )
    return module


@cache
def logger(package: TensorRTPackage) -> Any:
    """TensorRT's logger into ours; one a process, as it wants."""
    module = load_package(package)

    class Logger(module.ILogger):  # type: ignore[name-defined, misc]
        """Keeps the newest error: the calls themselves return nothing but None."""

        last_error = ""

        def log(self, severity: Any, message: str) -> None:
            line = " ".join(message.split())
            if severity <= module.ILogger.Severity.ERROR:
                self.last_error = line
                log.debug("tensorrt_error", kind=package.value, message=line)

    return Logger()


def reset_logger(package: TensorRTPackage) -> Any:
    """The logger, with no error in it."""
    emptied = logger(package)
    emptied.last_error = ""
    return emptied


@cache
def _import_if_installed(package: TensorRTPackage) -> ModuleType | None:
    try:
        return import_module(package.value)
    except (ImportError, OSError):
        # OSError: the package is there, a library of CUDA that it needs is not.
        return None


class RunningEngine:
    """An engine that was loaded; one call at a time."""

    def __init__(self, engine: Path) -> None:
        """Load an engine.

        Raises:
            DataError: it has no record.
            NotHereError: it was built by another TensorRT, for another GPU, or it does not fit.
        """
        self.record = read_record(engine)
        package = _check_record(self.record, engine)
        self._module, self._logger = load_package(package), reset_logger(package)
        self._runtime = self._module.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(engine.read_bytes())
        self._context = self._engine and self._engine.create_execution_context()
        if self._context is None:
            raise EngineUnavailableError(f"{engine}: {package} does not load it: {self._reason()}")
        indices = range(self._engine.num_io_tensors)
        names = [self._engine.get_tensor_name(index) for index in indices]
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
        outputs = self._bind(feeds)
        if not self._context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise EngineUnavailableError(
                f"{self.record.kind} does not run its engine: {self._reason()}"
            )
        return outputs

    def answers(self, feeds: Arrays) -> Arrays:
        """The outputs by name, from and to the host's memory."""
        on_gpu = {name: torch.from_numpy(array).cuda() for name, array in feeds.items()}
        return {name: tensor.cpu().numpy() for name, tensor in self.run(on_gpu).items()}

    def _bind(self, feeds: Tensors) -> Tensors:
        """Give the engine the addresses of its inputs and outputs; the outputs by name."""
        for name, tensor in feeds.items():
            if not self._context.set_input_shape(name, tuple(tensor.shape)):
                raise EngineUnavailableError(
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
        dtype = self._engine.get_tensor_dtype(name)
        types = {self._module.int64: torch.int64, self._module.float32: torch.float32}
        shape = tuple(self._context.get_tensor_shape(name))
        return torch.empty(shape, dtype=types[dtype], device="cuda")

    def _reason(self) -> Any:
        return self._logger.last_error or "it does not say why"


def _check_record(record: EngineRecord, engine: Path) -> TensorRTPackage:
    """The package that can run an engine.

    Raises:
        EngineUnavailableError: not on this machine.
    """
    package = TensorRTPackage(record.kind)
    installed = load_package(package).__version__
    if installed != record.version:
        raise EngineUnavailableError(
            f"{engine}: built by {package} {record.version}, here is {installed}: build it again"
        )
    if not torch.cuda.is_available():
        raise EngineUnavailableError(f"{engine.name}: runs on a GPU, and there is no GPU here")
    name = torch.cuda.get_device_name()
    if record.gpu not in (None, name):
        raise EngineUnavailableError(
            f"{engine}: built for {record.gpu}, here is {name}: build it again"
        )
    if sha256(engine) != record.engine_sha256:
        raise EngineUnavailableError(f"{engine}: damaged, its checksum differs: build it again")
    return package
