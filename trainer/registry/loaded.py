"""The versions that each Triton has loaded; a new one is asked once before it gets traffic."""

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from headwater_client.errors import ServerError

from features.inputs import MODEL_NAME
from features.model_server import CONFIG, ModelServer, ModelServerClient, on_each
from features.schema import FeatureSchema
from trainer.export import answers, open_session, sample_inputs
from trainer.export.onnx import differences
from trainer.registry import checkpoint
from trainer.registry.repository import ModelRepository, ModelVersion
from trainer.registry.staging import GRAPH

CHECKED_BATCH = 7


class LoadedVersions:
    """The versions of a repository that its Tritons have loaded; whoever changes them locks it."""

    def __init__(
        self, repository: ModelRepository, servers: Sequence[ModelServer], schema: FeatureSchema
    ) -> None:
        self._repository = repository
        self._servers = servers
        self._schema = schema

    def probe(self, folder: Path) -> None:
        """Let each Triton load the graph of `write_probe`, ask it once, and take it out again.

        Raises:
            ServerUnavailableError: none answers.
            ServerError: one does not serve it.
        """
        on_each(self._servers, partial(_probe, folder))

    def load_and_verify(self, version: ModelVersion, routed: Collection[int]) -> None:
        """Load a version beside those that are up, and ask it once.

        Args:
            routed: versions that take traffic: a Triton that has lost one loads it, too.

        Raises:
            ServerUnavailableError: no Triton answers.
            ServerError: one cannot load it, or it answers otherwise than ONNX Runtime does here.
        """
        items = checkpoint.read_manifest(version.folder).architecture.items
        there = set(self._repository.version_numbers())

        def load(triton: ModelServerClient) -> None:
            self._load(triton, {*triton.list_ready(there), *(there & {*routed}), version.number})
            check_answer(triton, version.number, version.folder / GRAPH, items, self._schema)

        on_each(self._servers, load)

    def is_ready(self, version: ModelVersion) -> bool:
        """Whether every Triton that answers can be asked for a version.

        Raises:
            ServerUnavailableError: none answers.
        """
        return all(on_each(self._servers, lambda triton: triton.is_ready(version.number)))

    def unload(self, version: ModelVersion) -> None:
        """Take a version out of every Triton that has it.

        Raises:
            ServerUnavailableError: none answers.
        """

        def unload(triton: ModelServerClient) -> None:
            loaded = triton.list_ready(self._repository.version_numbers())
            if version.number in loaded:
                self._load(triton, set(loaded) - {version.number})

        on_each(self._servers, unload)

    def narrow(self, live: int, wanted: Collection[int]) -> set[int]:
        """Leave loaded the live version, the one before it, and what is wanted besides.

        Returns:
            What stays loaded somewhere.

        Raises:
            ServerUnavailableError: no Triton answers.
        """
        numbers = self._repository.version_numbers()

        def narrow(triton: ModelServerClient) -> list[int]:
            loaded = triton.list_ready(numbers)
            serving = _versions_to_serve(loaded, live, wanted)
            if serving != loaded:
                self._load(triton, serving)
            return serving

        return {number for serving in on_each(self._servers, narrow) for number in serving}

    def _load(self, triton: ModelServerClient, versions: Collection[int]) -> None:
        triton.load((self._repository.model / CONFIG).read_text(), sorted(versions))


def check_answer(
    triton: ModelServerClient, version: int, graph: Path, items: int, schema: FeatureSchema
) -> None:
    """Ask once, which also warms the version, and compare with ONNX Runtime here.

    Args:
        items: how many items the model has.

    Raises:
        ServerError: the answers differ.
    """
    feeds = sample_inputs(items, schema, CHECKED_BATCH)
    expected = answers(open_session(graph), feeds)
    found = triton.ask(version, feeds, schema)
    for difference in differences(expected, found):
        raise ServerError(
            f"Triton: version {version} of {MODEL_NAME} answers wrongly: {difference}"
        )


def _probe(folder: Path, triton: ModelServerClient) -> None:
    triton.load_model(folder.name)
    try:
        found = triton.infer(folder.name, {"number": np.full((1, 1), 21, np.float32)})
        if (twice := found.as_numpy("twice")) is None or twice.tolist() != [[42.0]]:
            raise ServerError(f"Triton: {folder.name}: twice 21 is {twice}, it says")
    finally:
        triton.unload_model(folder.name)


def _versions_to_serve(loaded: Sequence[int], live: int, wanted: Collection[int]) -> list[int]:
    """Of the versions that are loaded those that stay so.

    >>> _versions_to_serve([1, 2, 3, 4], live=3, wanted={3})
    [2, 3, 4]
    """
    before = max((number for number in loaded if number < live), default=live)
    return [number for number in loaded if number >= before or number in wanted]
