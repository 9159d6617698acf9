"""The recovery sheet: one page of text that gets the data back when everything else is gone."""

import shlex

from likeness.clock import Clock
from likeness.store.format.data_store import DataStore

_COLUMNS = 4


def recovery_sheet(store: DataStore, *, place: str, words: str | None, clock: Clock) -> str:
    """Write the sheet.

    Args:
        store: Which.
        place: A folder or ``smb://server/share/folder``; never with an account's password in it.
        words: The recovery words, if they were made just now; nobody can tell older ones.
        clock: The present.
    """
    public = store.keys.public()
    command = f"python -m likeness list --store {shlex.quote(place)}"
    share = " --user NAME" if "://" in place else ""
    lines = [
        "RECOVERY SHEET",
        "Keep it on paper, away from the data store and from the machines it protects.",
        "",
        f"data store     {store.store_id}",
        f"place          {place}",
        f"epoch          {public.epoch}",
        f"fingerprint    {public.fingerprint}",
        f"printed        {clock():%Y-%m-%d %H:%M} UTC",
        "",
        "recovery words",
        *_words(words),
        "",
        "To see what can be restored, on any machine with Python 3.11 and this program:",
        f"    {command}{share}",
        "It asks for the recovery words. To get a disk back:",
        f"    {command.replace(' list ', ' restore ')}{share} VERSION --disk 0 --to FILE",
        "To check that nobody has altered the store, without any secret:",
        f"    {command.replace(' list ', ' verify ')}{share} \\",
        f"        --fingerprint {public.fingerprint.replace(' ', '')}",
    ]
    return "\n".join(lines)


def _words(words: str | None) -> list[str]:
    if words is None:
        return ["    as written down when they were made; nobody keeps them"]
    each = [f"{number:2}. {word:<12}" for number, word in enumerate(words.split(), 1)]
    rows = (each[start : start + _COLUMNS] for start in range(0, len(each), _COLUMNS))
    return [f"    {' '.join(row).rstrip()}" for row in rows]
