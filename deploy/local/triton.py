"""The local Triton: NVIDIA's server from its wheel, with our backend for ONNX models."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from headwater_client.errors import ServerError
from pydantic import SecretStr

from deploy.local import python_env
from deploy.local.process import LOOPBACK, Launch, NotReadyError, Progress
from deploy.local.python_env import TritonEnvironment
from deploy.settings import Settings

if TYPE_CHECKING:
    from features.model_server import ModelServerClient

PROOF_MODEL = "headwater_check"
# What could run a program of somebody else's, or write a file: only for who has the key.
RESTRICTED = "model-repository,shared-memory,statistics,trace,logging"


class Triton:
    """Triton Inference Server, without a container."""

    name = "triton"
    setting = "triton.url"

    def address(self, settings: Settings) -> str | None:
        return settings.triton.url

    def with_address(self, settings: Settings, address: str) -> Settings:
        found: dict[str, object] = {"url": address}
        if key := _control_key(settings):
            found["control_key"] = SecretStr(key)
        return settings.model_copy(update={"triton": settings.triton.model_copy(update=found)})

    def ports(self, settings: Settings) -> dict[str, int]:
        local = settings.local
        return {
            "grpc": local.triton_grpc_port,
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
        _make_control_key(settings)
        source = _packaged_folder("onnxruntime") / "model.py"
        backend = {folder / "backends" / "onnxruntime" / "model.py": source.read_text()}
        # Relative: the stub is started by a shell, which takes a blank for an end.
        command = [str(environment.server), *_options(settings, ports, Path("backends"))]
        return Launch(command, folder, _variables(environment), backend)

    def check(self, settings: Settings) -> None:
        from stream.inference import model_servers

        for server in model_servers(settings.triton):
            try:
                with server.connect() as triton:
                    # Not `ready`: false while any model at all comes, goes or is broken.
                    if not triton.is_live():
                        raise NotReadyError("is not live")
            except ServerError as error:
                raise NotReadyError(str(error)) from error

    def prove(self, settings: Settings) -> None:
        from stream.inference import model_servers

        [server] = model_servers(settings.triton)
        try:
            with server.connect() as triton:
                triton.load_model(PROOF_MODEL)
                _ask(triton)
                triton.unload_model(PROOF_MODEL)
        except ServerError as error:
            raise ServerError(f"triton: the start-up check failed: {error}") from error

    def examine(self, settings: Settings) -> str:  # noqa: ARG002
        """Nothing: what it has to serve Kafka says."""
        return ""

    def mend(self, settings: Settings, last_words: str) -> str:  # noqa: ARG002
        """Nothing: it mends its own files."""
        return ""


def _refuse_foreign_machine() -> None:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise ServerError(
            "the wheel of Triton runs on Linux x86_64 only: set HEADWATER_TRITON__URL "
            "to a Triton elsewhere, such as NVIDIA's container"
        )


def _key_file(settings: Settings) -> Path:
    return settings.local.state_dir / "triton" / "control_key"


def _control_key(settings: Settings) -> str:
    """What the local Triton asks for before it loads or unloads; "" if it was never started."""
    try:
        return _key_file(settings).read_text()
    except FileNotFoundError:
        return ""


def _make_control_key(settings: Settings) -> None:
    path = _key_file(settings)
    with (
        suppress(FileExistsError),
        os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file,
    ):
        file.write(secrets.token_hex(32))


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
    from features.model_server import CONTROL_HEADER

    return [
        f"--model-repository={settings.model_repository}",
        f"--model-repository={_packaged_folder('check')}",
        "--model-control-mode=explicit",
        "--disable-auto-complete-config",
        f"--backend-directory={backends}",
        f"--grpc-address={LOOPBACK}",
        f"--grpc-port={ports['grpc']}",
        # Its HTTP side can be reached by pages in a browser, and nothing here asks it.
        "--allow-http=false",
        f"--grpc-restricted-protocol={RESTRICTED}:{CONTROL_HEADER}={_control_key(settings)}",
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


def _ask(triton: ModelServerClient) -> None:
    """One request whose answer is known. With numpy 2 this Triton answers with nothing."""
    import numpy as np

    sent: dict[str, np.ndarray] = {
        "whole": np.array([[1, 2**62 - 1, -3]], np.int64),
        "real": np.array([[0.25, -1.5]], np.float32),
    }
    answer = triton.infer(PROOF_MODEL, sent)
    for name, array in sent.items():
        got = answer.as_numpy(f"{name}_result")
        if got is None or not np.array_equal(got, array * 2 + 1):
            raise ServerError(f"triton answers wrongly: {name}={array.tolist()} gave {got}")
