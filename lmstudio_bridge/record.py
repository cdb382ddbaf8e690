"""What happens in a run, told without secrets to its journal and to who waits, and added up."""

from __future__ import annotations

from dataclasses import replace

from lmstudio_bridge.agent.journal import Journal
from lmstudio_bridge.events import CallFinished, CallProgress, Emit, Event, Generating, JournalCut, Tally
from lmstudio_bridge.redaction import RedactedStream, Redactor


class Record:
    """The way of a run's events: the journal first, then `emit`, which gets what the journal lets out."""

    def __init__(self, journal: Journal, emit: Emit | None, *, redactor: Redactor) -> None:
        self.tally = Tally()
        self._journal = journal
        self._emit = emit
        self._redactor = redactor
        self._progress: dict[str, RedactedStream] = {}  # by call: a secret may come in pieces
        self._cut = False

    async def tell(self, event: Event) -> None:
        """Add an event up, and pass it on."""
        self.tally.add(event)
        await self.pass_on(event)

    async def pass_on(self, event: Event) -> None:
        """Pass on an event that somebody else adds up to the tally."""
        match event:
            case Generating():  # several a second, and without any text: for who waits only
                if self._emit:
                    await self._emit(event)
                return
            case CallProgress(call_id=call_id, text=text):
                stream = self._progress.setdefault(call_id, self._redactor.open_stream())
                event = replace(event, text=stream.feed(text))
            case CallFinished(call_id=call_id):
                self._progress.pop(call_id, None)
            case _:
                pass
        told = self._journal.keep(event)
        if self._emit:
            await self._emit(told)
        if self._journal.trouble and not self._cut:
            self._cut = True
            await self.tell(JournalCut(self._journal.trouble))
