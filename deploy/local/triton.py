"""The local Triton: NVIDIA's server from its wheel, with our backend for ONNX models."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from headwater_client.errors import ServerError

from deploy.local import python_env
from deploy.local.process import LOOPBACK, Launch, NotReadyError, Progress
from deploy.local.python_env import TritonEnvironment
from deploy.settings import Settings

if TYPE_CHECKING:
    from tritonclient.grpc import InferenceServerClient

CHECK_TIMEOUT_S = 2.0
PROOF_TIMEOUT_S = 60.0
PROOF_MODEL = "headwater_check"


class Triton:
    """Triton Inference Server, without a container."""

    name = "triton"
    setting = "triton.url"

    def address(self, settings: Settings) -> str | None:
        return settings.triton.url

    def with_address(self, settings: Settings, address: str) -> Settings:
        triton = settings.triton.model_copy(update={"url": address})
        return settings.model_copy(update={"triton": triton})

    def ports(self, settings: Settings) -> dict[str, int]:
        local = settings.local
        return {
            "grpc": local.triton_grpc_port,
            "http": local.triton_http_port,
            "metrics": local.triton_metrics_port,
        }

    def launch(self, settings: Settings, ports: Mapping[str, int], progress: Progress) -> Launch:
        _refuse_foreign_machine()
        environment = python_env.prepare(
            settings.local.cache_dir, lambda text: progress(self.name, text)
        )
        folder = settings.local.state_dir / "triton"
        settings.model_repository.mkdir(parents=True, exist_ok=True)
        _lay_out_backends(environment, folder / "backends")
        source = _packaged_folder("onnxruntime") / "model.py"
        backend = {folder / "backends" / "onnxruntime" / "model.py": source.read_text()}
        # Relative: the stub is started by a shell, which takes a blank for an end.
        command = [str(environment.server), *_options(settings, ports, Path("backends"))]
        return Launch(command, folder, _variables(environment), backend)

    def check(self, settings: Settings) -> None:
        from tritonclient.utils import InferenceServerException

        client = _client(settings)
        try:
            # Not `ready`: that is false while any model at all comes, goes or is broken.
            if not client.is_server_live(client_timeout=CHECK_TIMEOUT_S):
                raise NotReadyError("is not live")
        except InferenceServerException as error:
            raise NotReadyError(_one_line(error)) from error
        finally:
            client.close()

    def prove(self, settings: Settings) -> None:
        from tritonclient.utils import InferenceServerException

        client = _client(settings)
        try:
            client.load_model(PROOF_MODEL, client_timeout=PROOF_TIMEOUT_S)
            _ask(client)
            client.unload_model(PROOF_MODEL, client_timeout=PROOF_TIMEOUT_S)
            if _has_versions(settings):
                # A server that was started again has forgotten which model was live.
                client.load_model(settings.triton.model, client_timeout=PROOF_TIMEOUT_S)
        except InferenceServerException as error:
            raise ServerError(f"triton: the start-up check failed: {_one_line(error)}") from error
        finally:
            client.close()


def _refuse_foreign_machine() -> None:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise ServerError(
            "the wheel of Triton runs on Linux x86_64 only: set HEADWATER_TRITON__URL "
            "to a Triton elsewhere, such as NVIDIA's container"
        )


def _has_versions(settings: Settings) -> bool:
    model = settings.model_repository / settings.triton.model
    return model.is_dir() and any(folder.name.isdecimal() for folder in model.iterdir())


def _packaged_folder(name: str) -> Path:
    return Path(str(resources.files("deploy") / "triton" / name))


def _lay_out_backends(environment: TritonEnvironment, backends: Path) -> None:
    """The folder of backends: NVIDIA's for Python with the stub in it, beside it ours."""
    python = backends / "python"
    python.mkdir(parents=True, exist_ok=True)
    (backends / "onnxruntime").mkdir(exist_ok=True)
    for source in (*environment.python_backend.iterdir(), environment.stub):
        target = python / source.name
        if not target.exists() or target.stat().st_size != source.stat().st_size:
            target.unlink(missing_ok=True)  # never written over: a server may be running it
            shutil.copy2(source, target)


def _options(settings: Settings, ports: Mapping[str, int], backends: Path) -> list[str]:
    return [
        f"--model-repository={settings.model_repository}",
        f"--model-repository={_packaged_folder('check')}",
        "--model-control-mode=explicit",
        "--disable-auto-complete-config",
        f"--backend-directory={backends}",
        f"--grpc-address={LOOPBACK}",
        f"--grpc-port={ports['grpc']}",
        f"--http-address={LOOPBACK}",
        f"--http-port={ports['http']}",
        "--http-thread-count=1",
        f"--metrics-address={LOOPBACK}",
        f"--metrics-port={ports['metrics']}",
        # The counts of requests stay; these two poll the machine every two seconds.
        "--allow-gpu-metrics=false",
        "--allow-cpu-metrics=false",
        "--pinned-memory-pool-byte-size=0",
        "--exit-timeout-secs=5",
    ]


def _variables(environment: TritonEnvironment) -> dict[str, str]:
    """The stub embeds Python: it must find the environment's packages and nothing else."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    folders = [environment.libraries, python_env.python_library_folder()]
    return inherited | {
        "PATH": f"{environment.root / 'bin'}:{os.environ.get('PATH', os.defpath)}",
        "LD_LIBRARY_PATH": ":".join(str(folder) for folder in folders if folder),
        "OMP_NUM_THREADS": "1",
    }


def _client(settings: Settings) -> InferenceServerClient:
    from tritonclient.grpc import InferenceServerClient

    triton = settings.triton
    return InferenceServerClient(triton.url, ssl=triton.tls, root_certificates=triton.tls_ca_file)


def _ask(client: InferenceServerClient) -> None:
    """One request whose answer is known. With numpy 2 this Triton answers with nothing."""
    import numpy as np
    from tritonclient.grpc import InferInput

    sent: dict[str, np.ndarray] = {
        "whole": np.array([[1, 2**62 - 1, -3]], np.int64),
        "real": np.array([[0.25, -1.5]], np.float32),
    }
    inputs = []
    for name, array in sent.items():
        kind = "INT64" if array.dtype == np.int64 else "FP32"
        inputs.append(InferInput(name, list(array.shape), kind).set_data_from_numpy(array))
    answer = client.infer(PROOF_MODEL, inputs, client_timeout=PROOF_TIMEOUT_S)
    for name, array in sent.items():
        got = answer.as_numpy(f"{name}_result")
        if got is None or not np.array_equal(got, array * 2 + 1):
            raise ServerError(f"triton answers wrongly: {name}={array.tolist()} gave {got}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
