"""Quality of data: dead letters, corrected and sent again; events that look wrong."""

import asyncio
import sys
import threading
from collections.abc import Mapping, Sequence
from time import monotonic

from confluent_kafka import Message
from headwater_client import EVENT_TYPES, DeadLetter, EventError, decode, encode
from headwater_client.admin import quality
from headwater_client.contract import Problem
from headwater_client.documents import DocumentError, read_json
from headwater_client.errors import escape_controls
from headwater_client.topics import DEAD_LETTERS, ITEMS, PEOPLE
from msgspec.structs import replace

from deploy.console import dead_letters, event_checks, letter_log, log_tails, refusals
from deploy.console.audit import make_entry
from deploy.console.dead_letters import CheckedMessage, MessageChecker
from deploy.console.parts import ConsoleOperations, ConsoleParts
from deploy.console.session import role_of
from features.columns import DamagedRowError, decode_pair
from features.events import EventReader, current_ms
from features.store import ATTRIBUTES, CATALOGUE, VERSION, RowRead
from features.store.redis import RedisRowStore
from stream.api import problems
from stream.api.keys import ApiKey
from stream.api.parts import ApiCall
from stream.api.undelivered import describe_undelivered, refuse_undelivered

_KEPT, _KEPT_S = 8, 5.0
_SENT_AT_ONCE = 100


class QualityOperations(ConsoleOperations):
    """Tell what was refused and what looks wrong, and send corrected letters again."""

    def __init__(self, parts: ConsoleParts) -> None:
        super().__init__(parts)
        reader = EventReader(parts.settings.events)
        self._checker = MessageChecker(reader, current_ms)
        self._checked: dict[tuple[int, bool], tuple[float, quality.QualityAnswer]] = {}
        self._checking = threading.Lock()

    async def list_dead_letters(self, call: ApiCall) -> quality.DeadLettersAnswer:
        """The newest letters by fault.

        Raises:
            ServerError: Kafka does not answer.
        """
        query: quality.DeadLettersQuery = call.query
        found = await asyncio.to_thread(
            letter_log.read_letters, self._parts.settings.kafka, self._most_letters
        )
        sees = self._parts.may_read_people(call.key)
        sent = await self._read_sent(sees)
        faults = letter_log.describe_faults(found.letters, sent, sees)
        wanted = [
            each
            for each in reversed(found.letters)
            if query.topic in (None, each.letter.topic)
            and query.fault in (None, refusals.group_of(each.letter).name)
        ]
        return quality.DeadLettersAnswer(
            looked_at=len(found.letters),
            in_topic=found.in_topic,
            unreadable=found.unreadable,
            oldest_time=min((each.letter.refused_time for each in found.letters), default=None),
            faults=faults,
            letters=[
                quality.LetterLine(**letter_log.describe_line(each, sent, sees))
                for each in wanted[: query.limit]
            ],
            alerts=[
                letter_log.make_alert(fault) for fault in faults if fault.letters > fault.sent_again
            ],
        )

    async def show_dead_letter(self, call: ApiCall) -> quality.LetterAnswer:
        """A letter whole.

        Raises:
            RequestError: there is no such letter.
            ServerError: Kafka does not answer.
        """
        placed = await self._find_letter(call.path["letter"])
        letter, sees = placed.letter, self._parts.may_read_people(call.key)
        sent = await self._read_sent(sees)
        raw = letter.raw if sees else b""
        editable, why_not = dead_letters.find_editable(letter)
        suggested, is_taken = await asyncio.to_thread(
            dead_letters.suggest_rules, letter, editable, self._checker
        )
        problem = self._find_problem(letter, editable) if editable else None
        key = placed.key.decode(errors="replace")
        return quality.LetterAnswer(
            **letter_log.describe_line(placed, sent, sees),
            held_bytes=len(letter.raw),
            sha256=(letter.sha256 or "") if sees else "",
            hex=dead_letters.dump_hex(raw),
            hex_left_out=max(0, len(raw) - dead_letters.HEX_BYTES),
            editable=editable if sees else "",
            not_editable=why_not if sees else letter_log.WITHHELD,
            would_be_taken=bool(editable) and problem is None,
            problem=problem and letter_log.withhold(problem, sees),
            suggested=suggested if editable else [],
            suggestion_taken=bool(editable) and is_taken,
            remedy=refusals.find_remedy(refusals.group_of(letter)),
            message_key=escape_controls(key)[:256] if sees else "",
            all_sent_again=sent.get(placed.name, []),
        )

    async def send_dead_letter(self, call: ApiCall) -> quality.SentLetterAnswer:
        """Send a letter's message, corrected, to its own topic.

        Raises:
            EventError: the message breaks the contract.
            RequestError: it was sent already, something newer was, or Kafka does not take it.
            ServerError: Kafka does not answer.
        """
        query: quality.SendLetterQuery = call.body
        placed = await self._find_letter(call.path["letter"])
        before = (await self._read_sent()).get(placed.name)
        if before and not query.again:
            raise problems.refuse(
                "conflict",
                f"{placed.name} was sent again already, by {before[-1].who}: {before[-1].place}",
                "set again: it counts once all the same, by its event_id",
            )
        checked = self._checker.check(placed.letter, query.text)
        if not query.over_newer and await self._find_newer([(placed.letter, checked)]):
            raise problems.refuse("conflict", _NEWER, "set over_newer to put this one in its place")
        (delivered,) = await self._parts.publisher.publish([checked.message])
        if delivered.problem:
            raise refuse_undelivered(delivered, checked.message)
        place = {f"{checked.message.topic}/{delivered.partition}": delivered.offset}
        await self._note_sent(call, {placed.name: letter_log.make_record(checked, place)})
        return quality.SentLetterAnswer(
            letter=placed.name,
            topic=checked.message.topic,
            place=place,
            event_id=checked.event_id,
        )

    async def preview_corrections(self, call: ApiCall) -> quality.CorrectLettersAnswer:
        """What rules would make of letters.

        Raises:
            EventError: the rules are none, or no letters are named.
            ServerError: Kafka does not answer.
        """
        query: quality.CorrectionPreview = call.query
        names = [query.letter] if query.letter else []
        letters, left, sent = await self._choose_letters(names, query.fault)
        rules = await asyncio.to_thread(self._read_rules, query.rules, letters)
        corrected = await asyncio.to_thread(self._correct, letters, rules, sent)
        sees = self._parts.may_read_people(call.key)
        lines = [letter_log.hide(line, sees) for line, _ in corrected]
        return letter_log.sum_up(rules, lines, left)

    async def correct_dead_letters(self, call: ApiCall) -> quality.CorrectLettersAnswer:
        """Correct letters by rules, and send those that the contract takes then.

        Raises:
            EventError: no letters are named.
            ServerError: Kafka does not answer.
        """
        query: quality.CorrectLettersQuery = call.body
        letters, left, sent = await self._choose_letters(query.letters, query.fault)
        corrected = await asyncio.to_thread(self._correct, letters, query.rules, sent)
        by_name = {each.name: each.letter for each in letters}
        taken = [(line, by_name[line.letter], checked) for line, checked in corrected if checked]
        newer: set[int] = set()
        if not query.over_newer:
            newer = await self._find_newer([(letter, checked) for _, letter, checked in taken])
        lines = {line.letter: line for line, _ in corrected}
        for at in newer:
            name = taken[at][0].letter
            lines[name] = replace(lines[name], passed_over=_NEWER)
        sending = [
            (line.letter, checked) for at, (line, _, checked) in enumerate(taken) if at not in newer
        ]
        lines |= await self._send_corrected(call, sending, lines)
        sees = self._parts.may_read_people(call.key)
        return letter_log.sum_up(
            query.rules, [letter_log.hide(line, sees) for line in lines.values()], left
        )

    async def check_events(self, call: ApiCall) -> quality.QualityAnswer:
        """What looks wrong with the newest events.

        Raises:
            ServerError: Kafka does not answer.
        """
        query: quality.QualityQuery = call.query
        most = self._parts.settings.console.sample_events
        asked = min(query.sample or most, most), self._parts.may_read_people(call.key)
        return await asyncio.to_thread(self._look_at_events, asked, call.key)

    @property
    def _most_letters(self) -> int:
        return self._parts.settings.console.sample_letters

    async def _find_letter(self, name: str) -> letter_log.PlacedLetter:
        """A letter by its name.

        Raises:
            RequestError: there is none.
        """
        partition, _, offset = name.partition("-")
        message = None
        if partition.isdecimal() and offset.isdecimal() and len(name) < 30:
            place = int(partition), int(offset)
            message = await asyncio.to_thread(
                log_tails.find_message, self._parts.settings.kafka, DEAD_LETTERS, place
            )
        placed = None if message is None else letter_log.read_letter(message)
        if placed is None:
            gone = f"{name[:40]} is no dead letter, or Kafka has it no longer"
            raise problems.refuse("not-found", gone, "GET /v1/admin/dead-letters lists them")
        return placed

    def _find_problem(self, letter: DeadLetter, text: str) -> Problem | None:
        """What the contract has against a message as it is."""
        try:
            self._checker.check(letter, text)
        except EventError as error:
            return problems.describe_field(error)
        return None

    async def _choose_letters(
        self, names: Sequence[str], fault: str | None
    ) -> tuple[list[letter_log.PlacedLetter], int, Mapping[str, list[quality.SentAgain]]]:
        """The letters that are meant, those of a fault that are left, and what was sent of all.

        Raises:
            EventError: none are named.
        """
        if not names and fault is None:
            raise EventError("fault", "<missing>", "name a fault, or letters")
        found = await asyncio.to_thread(
            letter_log.read_letters, self._parts.settings.kafka, self._most_letters
        )
        sent = await self._read_sent()
        chosen = [
            each
            for each in found.letters
            if (each.name in names if names else refusals.group_of(each.letter).name == fault)
            and (names or each.name not in sent)
        ]
        if missing := set(names) - {each.name for each in chosen}:
            newest = f"is none of the newest {len(found.letters)} letters"
            raise EventError("letters", min(missing), newest)
        limit = quality.MAX_LETTERS
        return chosen[:limit], max(0, len(chosen) - limit), sent

    def _read_rules(
        self, text: str, letters: Sequence[letter_log.PlacedLetter]
    ) -> list[quality.CorrectionRule]:
        if not text.strip():
            newest = letters[-1].letter if letters else None
            editable = dead_letters.find_editable(newest)[0] if newest else ""
            if newest is None or not editable:
                return []
            return dead_letters.suggest_rules(newest, editable, self._checker)[0]
        try:
            return read_json(text, quality.Rules)
        except DocumentError as error:
            raise EventError("rules", text, f"expected a list of rules: {error}") from error

    def _correct(
        self,
        letters: Sequence[letter_log.PlacedLetter],
        rules: Sequence[quality.CorrectionRule],
        sent: Mapping[str, list[quality.SentAgain]],
    ) -> list[tuple[quality.CorrectedLetter, CheckedMessage | None]]:
        """Each letter after the rules, and the message that is to be sent of it."""
        made: list[tuple[quality.CorrectedLetter, CheckedMessage | None]] = []
        for name, letter, _ in letters:
            text, why_not = dead_letters.find_editable(letter)
            if name in sent:
                why_not = f"was sent again already: {sent[name][-1].place}"
            if why_not:
                made.append((quality.CorrectedLetter(letter=name, passed_over=why_not), None))
                continue
            try:
                text = dead_letters.apply_rules(letter, text, rules)
                checked = self._checker.check(letter, text)
            except EventError as error:
                problem = problems.describe_field(error)
                shown = dead_letters.show_text(text.encode(errors="replace"))
                line = quality.CorrectedLetter(letter=name, text=shown, problem=problem)
                made.append((line, None))
                continue
            shown = dead_letters.show_text(checked.message.value or b"")
            line = quality.CorrectedLetter(letter=name, text=shown, event_id=checked.event_id)
            made.append((line, checked))
        return made

    async def _send_corrected(
        self,
        call: ApiCall,
        sending: Sequence[tuple[str, CheckedMessage]],
        lines: Mapping[str, quality.CorrectedLetter],
    ) -> dict[str, quality.CorrectedLetter]:
        """Send messages, and note which Kafka has; the lines of all."""
        told: dict[str, quality.CorrectedLetter] = {}
        for start in range(0, len(sending), _SENT_AT_ONCE):
            part = sending[start : start + _SENT_AT_ONCE]
            delivered = await self._parts.publisher.publish([each.message for _, each in part])
            records: dict[str, letter_log.SentRecord] = {}
            for (name, checked), one in zip(part, delivered, strict=True):
                if one.problem:
                    problem = describe_undelivered(one, checked.message)
                    told[name] = replace(lines[name], problem=problem)
                    continue
                place = {f"{checked.message.topic}/{one.partition}": one.offset}
                records[name] = letter_log.make_record(checked, place)
                told[name] = replace(lines[name], place=place)
            if records:
                await self._note_sent(call, records)
        return told

    async def _find_newer(self, messages: Sequence[tuple[DeadLetter, CheckedMessage]]) -> set[int]:
        """Which of some messages would replace something newer: of an item, or of a person.

        An event is added to what there is, and never replaces anything.
        """
        tables = {ITEMS: CATALOGUE, PEOPLE: ATTRIBUTES}
        asked = [
            (at, letter, RowRead(tables[letter.topic], checked.message.key, (VERSION,)))
            for at, (letter, checked) in enumerate(messages)
            if letter.topic in tables
        ]
        if not asked:
            return set()
        store = RedisRowStore(self._parts.settings.store, any_server=True)
        try:
            rows = await store.read([read for _, _, read in asked])
        finally:
            await store.close()
        return {
            at
            for (at, letter, _), row in zip(asked, rows, strict=True)
            if self._is_newer(letter, row[VERSION])
        }

    def _is_newer(self, letter: DeadLetter, version: bytes | None) -> bool:
        """Whether a row was written by a message behind a letter's, in the same partition."""
        try:
            source, offset = decode_pair(version)
        except DamagedRowError:
            return False
        mine = self._parts.sources.get((letter.topic, letter.partition))
        return source == mine and offset > letter.offset

    async def _note_sent(self, call: ApiCall, records: Mapping[str, letter_log.SentRecord]) -> None:
        """Let the audit say which letters were sent, and where they stand now.

        Raises:
            ServerError: it cannot be written. Sent once more, they count once all the same.
        """
        entry = make_entry(
            action_id=f"sent-{current_ms()}-{next(iter(records))}",
            who=call.key.name,
            role=role_of(call.key),
            operation=letter_log.SENDING if "letter" in call.path else letter_log.CORRECTING,
            target=encode(dict(records)).decode(),
            reason=getattr(call.body, "reason", ""),
            outcome=letter_log.SENT,
        )
        await asyncio.to_thread(self._parts.audit.append, entry)

    async def _read_sent(self, sees: bool = True) -> dict[str, list[quality.SentAgain]]:
        """Which letters were sent again, by name; as `collect_sent`.

        Raises:
            ServerError: Kafka does not answer.
        """
        chain = await asyncio.to_thread(self._parts.audit.read)
        return letter_log.collect_sent(chain.entries, sees)

    def _look_at_events(self, asked: tuple[int, bool], key: ApiKey) -> quality.QualityAnswer:
        """As `_check_events`; several browsers ask at once, and one look is enough for them."""
        with self._checking:
            known = self._checked.get(asked)
            if known is None or monotonic() - known[0] > _KEPT_S:
                if len(self._checked) >= _KEPT:
                    self._checked.clear()
                known = self._checked[asked] = monotonic(), self._check_events(asked[0], key)
        return known[1]

    def _check_events(self, most: int, key: ApiKey) -> quality.QualityAnswer:
        parts = self._parts
        plan = log_tails.plan_tails(self._parts.settings.kafka, EVENT_TYPES.all_topics, most)
        sender = parts.settings.console.sender
        events: list[event_checks.SampledEvent] = []
        undecodable = 0
        for message in log_tails.read_tails(self._parts.settings.kafka, plan):
            try:
                events.append(_sample_event(message, sender))
            except EventError:
                undecodable += 1

        def mask(person: str) -> str:
            return parts.mask(person, key)

        ids, spellings = event_checks.check_ids(events, mask)
        answer = quality.QualityAnswer(
            sample=quality.EventSample(
                events=len(events),
                in_log=plan.in_log,
                undecodable=undecodable,
                partitions=sum(start < end for start, end in plan.reaches.values()),
                oldest_time=min((each.arrived_ms for each in events), default=None),
                newest_time=max((each.arrived_ms for each in events), default=None),
            ),
            alerts=[],
            ids=ids,
            spellings=spellings,
            clocks=event_checks.check_clocks(events),
            duplicates=event_checks.check_duplicates(
                events, mask, tells_ids=parts.may_read_people(key)
            ),
            computed_time=current_ms(),
        )
        return replace(answer, alerts=list(event_checks.list_alerts(answer)))


_NEWER = "the same item, or person, was sent anew since: this message would replace what is newer"


def _sample_event(message: Message, sender: str) -> event_checks.SampledEvent:
    """An event as it stands in its topic, whatever workers make of its time and its person.

    Raises:
        EventError: it breaks the contract.
    """
    topic = message.topic() or ""
    spec = EVENT_TYPES.spec_of_topic(topic)
    event = decode(spec.struct, letter_log.as_bytes(message.value()), sys.maxsize)
    place = f"{topic}/{message.partition()}@{message.offset()}"
    told = (event.context or {}).get(sender) if sender else None
    said = "" if told is None else escape_controls(str(told))[:64]
    return event_checks.SampledEvent(spec.name, event, place, message.timestamp()[1], said)
