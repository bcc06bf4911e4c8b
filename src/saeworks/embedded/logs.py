"""Domain "log": time-stamped lines of a service; what is opened is closed, retries count up."""

from dataclasses import dataclass

from saeworks.embedded import lexicon as lx
from saeworks.embedded.chance import Chance
from saeworks.embedded.draft import Draft, Phrase, word


@dataclass
class Journal:
    """What a log keeps in mind: the clock, the service, what is still open."""

    chance: Chance
    draft: Draft
    hour: int
    minute: int
    service: str
    opened: list[tuple[str, str]]

    def line(self, severity: str, template: str, **slots: Phrase | str) -> None:
        """Write one line, a little later than the last."""
        self.minute += self.chance.integer(0, 3)
        opening = "\n" if self.draft.tokens else ""
        with self.draft.scope(severity=severity):
            self.draft.write(
                opening + "{hour}:{minute} {severity} {service}: " + template,
                hour=word(f"{self.hour:02d}", time_part="hour"),
                minute=word(f"{self.minute:02d}", time_part="minute"),
                severity=word(severity),
                service=word(self.service, service=self.service),
                **slots,
            )


def write_log(chance: Chance, draft: Draft) -> None:
    """One log."""
    journal = Journal(
        chance,
        draft,
        chance.integer(0, 23),
        chance.integer(0, 40),
        chance.pick(lx.SERVICES),
        [],
    )
    for _ in range(chance.integer(3, 5)):
        if journal.opened and chance.maybe(0.45):
            _close(journal)
        elif chance.maybe(0.55):
            _open(journal)
        elif chance.maybe(0.6):
            _retry(journal)
        else:
            _report(journal)
    while journal.opened:
        _close(journal)


def _open(journal: Journal) -> None:
    resource = journal.chance.pick(lx.RESOURCES)
    number = f"{journal.chance.integer(10, 99)}"
    journal.opened.append((resource, number))
    journal.line("info", "opened {resource} {number}", **_thing(resource, number))


def _close(journal: Journal) -> None:
    """Last opened, first closed."""
    resource, number = journal.opened.pop()
    journal.line("info", "closed {resource} {number}", **_thing(resource, number))


def _retry(journal: Journal) -> None:
    """An error, then retries that count to their announced total."""
    chance = journal.chance
    fault = chance.pick_early(lx.FAULTS)
    resource, number = chance.pick(lx.RESOURCES), f"{chance.integer(10, 99)}"
    thing = _thing(resource, number)
    journal.line("error", "{resource} {number} {fault}", fault=fault, **thing)
    total = chance.integer(2, 3)
    for attempt in range(1, total + 1):
        journal.line(
            "warning",
            "retry {attempt} of {total} for {resource} {number}",
            attempt=str(attempt),
            total=str(total),
            **thing,
        )


def _report(journal: Journal) -> None:
    """A quoted message."""
    chance = journal.chance
    journal.line("info", "client says ")
    with journal.draft.scope(severity="info"), journal.draft.quote():
        journal.draft.write(
            "{service} is {state}",
            service=word(journal.service, service=journal.service),
            state=chance.pick(("ready", "slow", "idle", "busy")),
        )


def _thing(resource: str, number: str) -> dict[str, Phrase]:
    return {
        "resource": word(resource, noun_class="resource"),
        "number": number_phrase(number),
    }


def number_phrase(number: str) -> Phrase:
    """An identifier of two digits."""
    return word(number, identifier=number[0])
