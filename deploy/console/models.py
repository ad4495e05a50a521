"""The versions of the model: what their files, Triton and `rollouts` say of them."""

import asyncio
from collections.abc import Collection, Mapping

from headwater_client.admin import models
from headwater_client.admin.models import VersionState
from headwater_client.decoders import convert
from headwater_client.errors import DataError, HeadwaterError
from msgspec import to_builtins

from deploy.console.parts import ConsoleOperations, ConsoleParts
from features.model_server import LOOK_TIMEOUT_S, on_each
from features.rollout_messages import Variant
from stream.api.parts import ApiCall
from stream.api.problems import refuse
from stream.inference import model_servers
from trainer import version_history
from trainer.gate import Verdict
from trainer.version_history import StoredVersion, VersionHistory

# More than these are there only where somebody set `trainer.keep_versions` so.
MOST_VERSIONS = 500
_OF_VARIANT: Mapping[str, VersionState] = {
    Variant.STABLE: VersionState.LIVE,
    Variant.BASELINE: VersionState.LIVE,
    Variant.CANARY: VersionState.CANARY,
    Variant.SHADOW: VersionState.SHADOW,
}


class ModelOperations(ConsoleOperations):
    """List the versions of the model, and describe one."""

    def __init__(self, parts: ConsoleParts) -> None:
        super().__init__(parts)
        settings = parts.settings
        self._version_files = VersionHistory(
            settings.model_repository, settings.optimised_repository
        )

    async def list_models(self, _: ApiCall) -> models.ModelsAnswer:
        """All versions that are known, and how good they were over time."""
        missing: list[str] = []
        versions, verdicts = await asyncio.to_thread(self._read_version_files, missing)
        states = await self._find_states(versions, missing)
        judged = {found.version: found for found in verdicts}
        routed = self._parts.routes.answering
        stable = self._parts.routes.stable
        if stable is None:
            missing.append("no version is live: train a first one: headwater train")
        elif stable.version.version not in versions:
            folder = self._parts.settings.model_repository
            missing.append(
                f"version {stable.version.version} is live, and is not in {folder}: set "
                "model_repository to the folder of who trains, to see what it is"
            )
        numbers = sorted({*versions, *judged, *states}, reverse=True)[:MOST_VERSIONS]
        return models.ModelsAnswer(
            live=stable.version.version if stable else None,
            rollout=next((each.rollout_id for each in routed if each.rollout_id), ""),
            versions=[
                _summarise(
                    versions.get(number, StoredVersion(number)),
                    _state_of(number, versions, judged, states),
                    judged.get(number),
                )
                for number in numbers
            ],
            quality=[_quality(found) for found in verdicts],
            missing=missing,
        )

    async def describe_model(self, call: ApiCall) -> models.ModelDetails:
        """What is known of one version.

        Raises:
            RequestError: there is no such version.
        """
        text = call.path["version"]
        missing: list[str] = []
        versions, verdicts = await asyncio.to_thread(self._read_version_files, missing)
        judged = {found.version: found for found in verdicts}
        number = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
        if number not in {*versions, *judged}:
            there = ", ".join(map(str, sorted({*versions, *judged}))) or "none"
            remedy = missing[0] if missing else f"there are {there}"
            raise refuse("not-found", f"no version is named {text[:64]!r}", remedy)
        states = await self._find_states([number], missing)
        stored = versions.get(number, StoredVersion(number))
        state = _state_of(number, versions, judged, states)
        return _describe(stored, state, stored.verdict or judged.get(number))

    def _read_version_files(
        self, missing: list[str]
    ) -> tuple[dict[int, StoredVersion], list[Verdict]]:
        """What the model repository has.

        Args:
            missing: told what cannot be read.
        """
        versions: dict[int, StoredVersion] = {}
        verdicts: list[Verdict] = []
        try:
            versions = self._version_files.read_versions()
            verdicts = self._version_files.read_verdicts()
        except DataError as error:
            missing.append(str(error))
        return versions, verdicts

    async def _find_states(
        self, numbers: Collection[int], missing: list[str]
    ) -> dict[int, VersionState]:
        """What takes traffic or is loaded; no entry for others.

        Args:
            missing: told what cannot be asked.
        """
        states = dict.fromkeys(await self._list_loaded(numbers, missing), VersionState.LOADED)
        routed = [each.version for each in self._parts.routes.answering]
        for version in sorted(routed, key=lambda each: each.variant == Variant.STABLE):
            states[version.version] = _OF_VARIANT.get(version.variant, VersionState.LIVE)
        return states

    async def _list_loaded(self, numbers: Collection[int], missing: list[str]) -> list[int]:
        servers = model_servers(self._parts.settings.triton)
        try:
            found = await asyncio.to_thread(
                on_each, servers, lambda triton: triton.list_ready(numbers, LOOK_TIMEOUT_S)
            )
        except HeadwaterError as error:
            missing.append(f"which versions are loaded is not known: {error}")
            return []
        return sorted({number for each in found for number in each})


def _state_of(
    number: int,
    versions: Mapping[int, StoredVersion],
    judged: Mapping[int, Verdict],
    states: Mapping[int, VersionState],
) -> VersionState:
    """What becomes of a version now."""
    stored = versions.get(number)
    if number in states:
        return states[number]
    if stored is None:
        found = judged.get(number)
        return VersionState.REMOVED if found and found.passed else VersionState.REFUSED
    if stored.manifest is None:
        return VersionState.BROKEN
    return VersionState.KEPT if stored.is_kept else VersionState.STORED


def _summarise(
    stored: StoredVersion, state: VersionState, judged: Verdict | None
) -> models.VersionSummary:
    manifest, verdict = stored.manifest, stored.verdict or judged
    return models.VersionSummary(
        version=stored.number,
        state=state,
        problem=stored.problem,
        created_time=manifest.created_ms if manifest else None,
        trained_until=manifest.trained_until_ms if manifest else None,
        parent=manifest.parent if manifest else (verdict.live if verdict else None),
        windows=list(manifest.windows) if manifest else [],
        size_bytes=version_history.count_sizes(manifest) if manifest else None,
        held_out=manifest.outcome.held_out if manifest else None,
        passed=verdict.passed if verdict else None,
        forms=[each.form for each in _forms(stored) if not each.refusal],
    )


def _quality(found: Verdict) -> models.QualityFigures:
    foresight = found.foresight
    return models.QualityFigures(
        time=found.time_ms,
        version=found.version,
        passed=found.passed,
        events=found.events,
        candidate=found.candidate.ndcg_at_10,
        reference=found.reference.ndcg_at_10,
        live=found.live,
        foreseen=foresight.live if foresight else None,
        popularity=foresight.popularity if foresight else None,
    )


def _describe(
    stored: StoredVersion, state: VersionState, verdict: Verdict | None
) -> models.ModelDetails:
    manifest = stored.manifest
    told = models.ModelDetails(
        summary=_summarise(stored, state, verdict),
        code_revision="",
        architecture={},
        seconds=None,
        metrics={},
        verdict=_describe_verdict(verdict) if verdict else None,
        curve=[],
        files=[],
        forms=_forms(stored),
        parts=_describe_parts(verdict),
        settings={},
    )
    if manifest is None:
        return told
    values = {"members": manifest.members, **manifest.architecture}
    more = {
        "code_revision": manifest.code_revision,
        "architecture": version_history.describe_values(values),
        "seconds": manifest.outcome.seconds,
        "metrics": manifest.metrics,
        "curve": to_builtins(manifest.outcome.curve),
        "files": [
            {"name": name, "size_bytes": each.size_bytes, "sha256": each.sha256}
            for name, each in sorted(manifest.files.items())
        ],
        "settings": {
            section: version_history.describe_values(values)
            for section, values in manifest.settings.items()
        },
    }
    return convert({**to_builtins(told), **more}, models.ModelDetails)


def _describe_verdict(found: Verdict) -> models.VerdictFigures:
    return models.VerdictFigures(
        passed=found.passed,
        time=found.time_ms,
        events=found.events,
        people=found.people,
        beside=found.live,
        candidate=convert(to_builtins(found.candidate), models.JudgedFigures),
        reference=convert(to_builtins(found.reference), models.JudgedFigures),
        checks=[convert(to_builtins(each), models.CheckFigures) for each in found.checks],
    )


def _describe_parts(verdict: Verdict | None) -> list[models.PartFigures]:
    """What each part is worth, the one that matters most first."""
    if verdict is None:
        return []
    whole = verdict.candidate.ndcg_at_10
    found = sorted(verdict.without.items(), key=lambda part: part[1])
    return [models.PartFigures(part=name, ndcg=whole, without=ndcg) for name, ndcg in found]


def _forms(stored: StoredVersion) -> list[models.FormFigures]:
    """The form that the version's folder serves, and those that were built of it besides."""
    if stored.manifest is None:
        return []
    served = stored.served
    forms = [_form((served.served if served else "") or "float32", served, serves=True)]
    if served and served.refusal:
        forms = [_form("float32", None, serves=True), _form("int8", served, serves=False)]
    return forms + [_form(each.form, each, serves=False) for each in stored.forms]


def _form(
    name: str, found: version_history.FormRecord | None, *, serves: bool
) -> models.FormFigures:
    alike = found.agreement if found else None
    return models.FormFigures(
        form=name,
        serves=serves,
        refusal=(found.refusal or "") if found and not serves else "",
        overlap=alike.overlap if alike else None,
        ndcg=alike.ndcg if alike else None,
        graph_ndcg=alike.graph_ndcg if alike else None,
    )
