"""Model quality beside peers: same split, same questions, same rules, in one run.

uv run python -m bench.quality
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console, RenderableType

from bench.harness import runner
from bench.quality import figures, questions
from bench.quality.ours import Method, Ours, first_member, methods, scores, train_ours
from bench.quality.peer_runs import Budget, Interactions, Peer, PeerRun, Request, tune, write_input
from deploy.settings import default_cache_dir
from features.schema import FeatureSchema
from features.settings import FeatureSettings
from trainer.datasets import Log
from trainer.metrics import ndcg
from trainer.settings import ModelPart, TrainerSettings
from trainer.text import TextEncoder, load_text_encoder

QUICK_EVENTS = 8_000
# By name, what is changed of our settings.
Ablations = Mapping[str, Mapping[str, Any]]
# Without one part of the model each.
ABLATIONS: Ablations = {
    **{f"{figures.OURS} without {part}": {"ablate": frozenset({part})} for part in ModelPart},
    f"{figures.OURS}, plain": {"ablate": frozenset(ModelPart) - {ModelPart.IDENTITY}},
}


@dataclass(frozen=True)
class JudgedModel:
    """What a trained model of ours answered in the test, and its NDCG@10 on validation."""

    answers: questions.Answers
    held_out: float


@dataclass(frozen=True)
class QualityRun:
    """One protocol on one log."""

    log: Log
    takes: questions.Takes
    validation: questions.Questions
    test: questions.Questions
    console: Console

    @property
    def name(self) -> str:
        """`leave_one_out`; of other rules than the default ones `leave_one_out-file-repeats`."""
        ties = [self.test.ties.value] if self.test.ties is not questions.Ties.STRICT else []
        return "-".join([self.takes.protocol, *ties, *(["repeats"] if self.takes.repeats else [])])

    def count(self) -> dict[str, figures.Row]:
        """The methods that count, each with the variant that validation chose."""
        live = self.takes.protocol is questions.Protocol.GLOBAL_TIME
        return {
            name: figures.figures(self.test, _ask(self._choose(name, variants), self.test))
            for name, variants in methods(self.takes, live).items()
        }

    def _choose(self, name: str, variants: Sequence[Method]) -> Method:
        if len(variants) == 1:
            return variants[0]
        found = [_worth(_ask(one, self.validation)) for one in variants]
        best = int(np.argmax(found))
        self.say(f"{name}: variant {best + 1} of {len(variants)}, validation {found[best]:.4f}")
        return variants[best]

    def train(
        self, seeds: int, settings: TrainerSettings, ablations: Ablations
    ) -> dict[str, figures.Row]:
        """Our sizes, and the default one's ablations with what each loses: means of seeds."""
        # A part left out leaves the language model as it is: read once for all.
        text_encoder = load_text_encoder(settings.language_model, default_cache_dir())
        sizes = self._train_sizes(seeds, settings, text_encoder)
        whole = _mean_gains(sizes[figures.OURS])
        rows = {name: self._row(found) for name, found in sizes.items()}
        for name, change in ablations.items():
            changed = settings.model_copy(update=change)
            found = [
                self._judge_model(name, seed, self._train(changed, text_encoder, seed))
                for seed in range(seeds)
            ]
            lost = whole - _mean_gains(found)
            rows[name] = figures.with_differences(self.test, self._row(found), lost)
        return rows

    def _train_sizes(
        self, seeds: int, settings: TrainerSettings, text_encoder: TextEncoder | None
    ) -> dict[str, list[JudgedModel]]:
        """The default model and the larger one, whose first member it is."""
        large = settings.model_copy(update={"ensemble_size": figures.MEMBERS})
        found: dict[str, list[JudgedModel]] = {figures.OURS: [], figures.LARGE: []}
        for seed in range(seeds):
            together = self._train(large, text_encoder, seed)
            found[figures.OURS].append(
                self._judge_model(figures.OURS, seed, first_member(together))
            )
            found[figures.LARGE].append(self._judge_model(figures.LARGE, seed, together))
        return found

    def _train(
        self, settings: TrainerSettings, text_encoder: TextEncoder | None, seed: int
    ) -> Ours:
        wanted = settings.model_copy(update={"seed": settings.seed + seed})
        return train_ours(self.log, self.takes, self._schema(), wanted, text_encoder)

    def _judge_model(self, name: str, seed: int, ours: Ours) -> JudgedModel:
        held_out = _worth(
            questions.answers_by_score(self.validation, scores(ours, self.validation))
        )
        answers = questions.answers_by_score(self.test, scores(ours, self.test))
        self.say(f"{name}, seed {seed + 1}: {_worth(answers):.4f}, validation {held_out:.4f}")
        return JudgedModel(answers, held_out)

    def _row(self, found: Sequence[JudgedModel]) -> figures.Row:
        return figures.mean(
            [figures.figures(self.test, one.answers) | {"held_out": one.held_out} for one in found]
        )

    def _schema(self) -> FeatureSchema:
        """What may be recommended again is one rule, for training and for all methods."""
        if self.takes.repeats:
            return FeatureSchema(FeatureSettings(seen_by=frozenset()))
        return FeatureSchema(FeatureSettings())

    def run_peers(
        self, chosen: Sequence[Peer], budget: Budget, work: Path
    ) -> dict[str, figures.Row]:
        """Peers from RecTools, each tuned over the same grid.

        Args:
            work: where input and runs are kept; finished runs of the same recipe are taken up.
        """
        if not chosen:
            return {}
        folder = work / self.name
        self.write_input(folder)
        found = {peer: tune(folder, peer, budget, self._judge_peer, self.say) for peer in chosen}
        return {
            f"{peer.label} {figures.LEARNED_PEER}": figures.figures(
                self.test, questions.answers_in_lists(self.test, best.top("test"))
            )
            for peer, best in found.items()
        }

    def _judge_peer(self, run: PeerRun) -> float:
        return _worth(questions.answers_in_lists(self.validation, run.top("validation")))

    def write_input(self, folder: Path) -> None:
        """Write what the peers read."""
        learned = self.takes.part == questions.TRAINING
        columns = (self.takes.users, self.takes.items, self.takes.times_s)
        train = Interactions(*(column[learned] for column in columns))
        write_input(folder, train, _requests(self.validation), _requests(self.test))

    def say(self, text: str) -> None:
        """Tell what is going on."""
        self.console.print(f"{self.name}: {text}", highlight=False, soft_wrap=True)


def _mean_gains(found: Sequence[JudgedModel]) -> questions.Floats:
    means: questions.Floats = np.mean([ndcg(one.answers.ranks) for one in found], axis=0)
    return means


def _ask(method: Method, asked: questions.Questions) -> questions.Answers:
    return questions.answers_by_score(asked, method(asked))


def _worth(answers: questions.Answers) -> float:
    return float(ndcg(answers.ranks).mean())


def _requests(asked: questions.Questions) -> list[Request]:
    takes, (question, rows) = asked.takes, asked.targets()
    targets = np.split(takes.items[rows], np.flatnonzero(np.diff(question)) + 1)
    spans = [slice(a, b) for a, b in zip(asked.starts, asked.firsts, strict=True)]
    seconds = [takes.items[a:b] for a, b in zip(asked.firsts, asked.ends, strict=True)]
    return [
        Request(int(time_s), takes.items[span], takes.times_s[span], wanted, second)
        for time_s, span, wanted, second in zip(asked.times_s, spans, targets, seconds, strict=True)
    ]


def start_run(
    log: Log, protocol: questions.Protocol, ties: questions.Ties, repeats: bool, console: Console
) -> QualityRun:
    """Split a log."""
    takes = questions.takes_of(log, protocol, repeats)
    validation, test = (
        questions.questions(takes, part, ties) for part in (questions.VALIDATION, questions.TEST)
    )
    return QualityRun(log, takes, validation, test, console)


@dataclass(frozen=True, kw_only=True)
class QualityOptions(runner.MappedDataOptions, runner.ChartOptions):
    """Options of `bench.quality`."""

    protocol: Annotated[
        list[questions.Protocol] | None, typer.Option(help="only this one; may be repeated")
    ] = None
    ties: Annotated[
        questions.Ties, typer.Option(help="order inside a second: none, or the file's")
    ] = questions.Ties.STRICT
    repeats: Annotated[bool, typer.Option(help="items may be taken, and recommended, again")] = (
        False
    )
    peer: Annotated[
        list[Peer] | None, typer.Option(help="only these of RecTools; may be repeated")
    ] = None
    peers: Annotated[bool, typer.Option(help="tune peers of RecTools: hours")] = True
    seeds: Annotated[int, typer.Option(help="of our model; figures are their mean", min=1)] = 3
    ablations: Annotated[bool, typer.Option(help="ours without one part each, too")] = True
    threads: runner.Threads = 2
    max_epochs: Annotated[int, typer.Option(help="of a peer", min=1)] = Budget().max_epochs
    work: Annotated[
        Path | None, typer.Option(help="keep the peers' runs here, and take up finished ones")
    ] = None
    quick: runner.Quick = False

    @property
    def rules(self) -> str:
        """What decides a figure beside the model."""
        return questions.rules(self.ties, self.repeats)


def measure(options: QualityOptions, console: Console) -> runner.Results:
    """Rank all items for each question, by our model and by others."""
    log = options.load_log()
    settings = TrainerSettings(threads=options.threads, max_seconds=runner.UNHURRIED_S)
    if options.quick:
        log, settings = log.head(QUICK_EVENTS), settings.model_copy(update={"epochs": 1})
    chosen = (options.peer or list(Peer)) if options.peers else []
    budget = Budget(max_epochs=options.max_epochs, repeats=options.repeats)
    rows: dict[str, figures.Rows] = {}
    shown: list[RenderableType] = []
    with runner.work_folder(options.work) as work:
        for protocol in options.protocol or list(questions.Protocol):
            run = start_run(log, protocol, options.ties, options.repeats, console)
            models = ABLATIONS if options.ablations else {}
            rows[protocol.value] = {
                **run.count(),
                **run.run_peers(chosen, budget, work),
                **run.train(options.seeds, settings, models),
            }
            title = f"{protocol.value}, {len(run.test.targets()[0])} targets; {options.rules}"
            shown += [
                figures.make_table_of_methods(title, rows[protocol.value]),
                *figures.make_difference_table(rows[protocol.value]),
            ]
    report = figures.summary(options.rules, rows, len(chosen)) | {"seeds": options.seeds}
    return runner.Results(
        report, [*shown, *figures.verdicts(report)], partial(figures.draw, rows, options.rules)
    )


BENCHMARK = runner.Benchmark("quality", QualityOptions, measure, width=150)

if __name__ == "__main__":
    BENCHMARK.main()
