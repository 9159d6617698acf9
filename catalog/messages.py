"""The outbox: messages to people, kept until each channel has taken them."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from catalog.connection import (
    CatalogLocation,
    Connection,
    from_utc,
    read_lately,
    reading,
    to_utc,
    writing,
)

_FEW = 1000
"""So many deliveries are kept in memory, from one question to the next."""


@dataclass(frozen=True, slots=True)
class Message:
    """Something people are told.

    Attributes:
        message: 32 hex digits, the same for the same matter; see `message_id`.
        about: ``damage``, ``healed`` or ``job``.
        subject: One line.
        body: Plain text.
        incident: Its number; none if it is about none.
    """

    message: str
    about: str
    subject: str
    body: str
    incident: int | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message on its way through one channel.

    Attributes:
        message: What is to be delivered.
        channel: ``mail`` or ``webhook``.
        attempts: How often it was tried.
        problem: Why the last attempt failed.
    """

    message: Message
    channel: str
    written_at: datetime
    attempts: int
    tried_at: datetime | None
    delivered_at: datetime | None
    problem: str


def message_id(*matter: object) -> str:
    """32 hex digits that stand for a matter; whoever asks twice gets the same."""
    words = "\n".join(str(word) for word in matter)
    return hashlib.blake2b(words.encode(), digest_size=16).hexdigest()


def write_message(
    catalog: CatalogLocation, message: Message, channels: Collection[str], now: datetime
) -> bool:
    """Put a message into the outbox; one that is there already is left as it is.

    Args:
        catalog: Which.
        message: What to tell.
        channels: Through which; none: it is only kept.
        now: The present.

    Returns:
        Whether it is new.
    """
    with writing(catalog) as connection:
        known = connection.execute(
            "SELECT 1 FROM messages WHERE message_id = ?", [message.message]
        ).fetchone()
        if known:
            return False
        connection.execute(
            """INSERT INTO messages (message_id, about, incident_no, subject, body, written_at)
            VALUES (?, ?, ?, ?, ?, ?)""",
            [
                *(message.message, message.about, message.incident),
                *(message.subject, message.body, to_utc(now)),
            ],
        )
        for channel in channels:
            connection.execute(
                """INSERT INTO deliveries (message_id, channel, attempts, problem)
                VALUES (?, ?, 0, '')""",
                [message.message, channel],
            )
    return True


def written(catalog: CatalogLocation, ids: Collection[str]) -> set[str]:
    """Those of some messages that are in the outbox, delivered or not."""
    with reading(catalog) as connection:
        rows = connection.execute(
            "SELECT message_id FROM messages WHERE list_contains(?::UUID[], message_id)",
            [list(ids)],
        ).fetchall()
    return {row[0].hex for row in rows}


def undelivered(catalog: CatalogLocation) -> list[Delivery]:
    """What has not arrived yet: what was tried least often first, and then the oldest.

    So a message that a server will never take holds up no other.
    """
    waiting = [each for each in _deliveries(catalog) if each.delivered_at is None]
    return sorted(waiting, key=lambda each: each.attempts)


def recent_deliveries(catalog: CatalogLocation, most: int = 20) -> list[Delivery]:
    """The newest deliveries, newest first, arrived or not."""
    return list(reversed(_deliveries(catalog)))[:most]


def note_delivery(
    catalog: CatalogLocation,
    delivery: Delivery,
    now: datetime,
    *,
    problem: str = "",
    tried: bool = True,
) -> None:
    """Write down what came of an attempt, or why there was none; with a problem, it waits."""
    with writing(catalog) as connection:
        connection.execute(
            """UPDATE deliveries SET attempts = attempts + ?::BOOLEAN::INTEGER, problem = ?,
                tried_at = CASE WHEN ? THEN ?::TIMESTAMP ELSE tried_at END,
                delivered_at = CASE WHEN ? = '' THEN ?::TIMESTAMP END
            WHERE message_id = ? AND channel = ? AND delivered_at IS NULL""",
            [
                *(tried, problem, tried, to_utc(now), problem, to_utc(now)),
                *(delivery.message.message, delivery.channel),
            ],
        )


def _deliveries(catalog: CatalogLocation) -> Sequence[Delivery]:
    return read_lately(catalog, "deliveries", _asked, few=lambda found: len(found) <= _FEW)


def _asked(connection: Connection) -> Sequence[Delivery]:
    rows = connection.execute(
        """SELECT m.message_id, m.about, m.subject, m.body, m.incident_no, m.written_at,
            d.channel, d.attempts, d.tried_at, d.delivered_at, d.problem
        FROM deliveries AS d JOIN messages AS m USING (message_id)
        ORDER BY m.written_at, m.rowid, d.channel"""
    ).fetchall()
    return tuple(_delivery(*row) for row in rows)


def _delivery(
    message: UUID,
    about: str,
    subject: str,
    body: str,
    incident: int | None,
    written_at: datetime,
    channel: str,
    attempts: int,
    tried_at: datetime | None,
    delivered_at: datetime | None,
    problem: str,
) -> Delivery:
    return Delivery(
        message=Message(message.hex, about, subject, body, incident),
        channel=channel,
        written_at=from_utc(written_at) or written_at,
        attempts=attempts,
        tried_at=from_utc(tried_at),
        delivered_at=from_utc(delivered_at),
        problem=problem,
    )
