"""The pool's objects: tables, references, relations kept in step, and a running change number.

Every write is atomic: a read-modify-write such as `add_to_other_config` holds the lock from its
read to its write. Readers get copies.
"""

import threading
import uuid as uuids
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from lab.facts import Facts, Relation
from lab.failures import XapiFailure
from lab.wire.values import Value, is_null

DELETIONS_KEPT = 20_000

Record = dict[str, Value]
Derivation = Callable[["Database", str, Record], Value]


def copied(value: Value) -> Value:
    """Copy a value so that nobody shares its lists and maps."""
    if isinstance(value, list):
        return [copied(item) for item in value]
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return value


class Deletion(NamedTuple):
    """An object that is gone; `created` and `deleted` are change numbers."""

    class_name: str
    ref: str
    created: int
    deleted: int


@dataclass
class Row:
    """One object with the change numbers of its birth and its last change."""

    record: Record
    created: int
    modified: int


def new_ref() -> str:
    """Make up a reference."""
    return f"OpaqueRef:{uuids.uuid4()}"


def new_uuid() -> str:
    """Make up a uuid."""
    return str(uuids.uuid4())


def _has_field(facts: Facts, class_name: str, field: str) -> bool:
    known = facts.classes.get(class_name)
    return known is not None and field in known.fields


class Database:
    """Every object of one pool.

    Attributes:
        lock: Held for every read and write; take it to make several of them one.
        changed: Notified after each change; it shares `lock`.
        generation: The change number: how many changes there have been.
    """

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.generation = 0
        self.deletions: deque[Deletion] = deque(maxlen=DELETIONS_KEPT)
        self._tables: dict[str, dict[str, Row]] = {name: {} for name in facts.classes}
        self._by_uuid: dict[tuple[str, str], str] = {}
        self._recent: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._derived: dict[str, dict[str, Derivation]] = {}
        self._forward: dict[tuple[str, str], Relation] = {}
        for relation in facts.relations:
            here = _has_field(facts, relation.owner, relation.field)
            if here and _has_field(facts, relation.other, relation.other_field):
                self._forward[relation.owner, relation.field] = relation

    # -- reading ---------------------------------------------------------------------------------

    def exists(self, class_name: str, ref: str) -> bool:
        """Say whether the reference points to a living object."""
        return ref in self._tables.get(class_name, ())

    def refs(self, class_name: str) -> list[str]:
        """All references of a class, oldest first."""
        with self.lock:
            return list(self._tables[class_name])

    def count(self, class_name: str) -> int:
        """How many objects a class has."""
        return len(self._tables[class_name])

    def record(self, class_name: str, ref: str) -> Record:
        """A copy of the whole record.

        Raises:
            XapiFailure: HANDLE_INVALID.
        """
        with self.lock:
            stored = self.row(class_name, ref).record
            derived = self._derived.get(class_name, {})
            fresh: Record = copied(stored)
            for field, derive in derived.items():
                fresh[field] = derive(self, ref, stored)
            return fresh

    def get(self, class_name: str, ref: str, field: str) -> Value:
        """A copy of one field.

        Raises:
            XapiFailure: HANDLE_INVALID.
        """
        with self.lock:
            stored = self.row(class_name, ref).record
            derive = self._derived.get(class_name, {}).get(field)
            return derive(self, ref, stored) if derive else copied(stored[field])

    def row(self, class_name: str, ref: str) -> Row:
        """The stored row itself; the caller holds the lock and changes nothing."""
        try:
            return self._tables[class_name][ref]
        except KeyError:
            raise XapiFailure("HANDLE_INVALID", class_name, ref) from None

    def by_uuid(self, class_name: str, uuid: str) -> str:
        """The reference behind a uuid."""
        try:
            return self._by_uuid[class_name, uuid]
        except KeyError:
            raise XapiFailure("UUID_INVALID", class_name, uuid) from None

    def find(self, class_name: str, ref_or_uuid: str) -> str:
        """Take a reference or a uuid, as the parameters of the HTTP handlers do.

        Raises:
            XapiFailure: UUID_INVALID.
        """
        known = self.exists(class_name, ref_or_uuid)
        return ref_or_uuid if known else self.by_uuid(class_name, ref_or_uuid)

    def where(self, class_name: str, **fields: Value) -> list[str]:
        """References of the objects whose fields hold these values."""
        with self.lock:
            return [
                ref
                for ref, row in self._tables[class_name].items()
                if all(row.record[name] == value for name, value in fields.items())
            ]

    def changes_since(self, generation: int) -> Iterator[tuple[str, str, Row]]:
        """Objects changed after this number, latest first; the caller holds the lock."""
        for class_name, ref in reversed(self._recent):
            row = self._tables[class_name][ref]
            if row.modified <= generation:
                return
            yield class_name, ref, row

    # -- writing ---------------------------------------------------------------------------------

    def derive(self, class_name: str, field: str, rule: Derivation) -> None:
        """Compute a field whenever it is read instead of storing it."""
        self._derived.setdefault(class_name, {})[field] = rule

    def create(self, class_name: str, *, ref: str | None = None, **fields: Value) -> str:
        """Make an object; fields left out take the data model's defaults, the uuid is made up."""
        with self._change():
            facts = self.facts.classes[class_name]
            ref = ref or new_ref()
            record = {name: copied(field.default) for name, field in facts.fields.items()}
            record["uuid"] = fields.pop("uuid", "") or new_uuid()
            self._tables[class_name][ref] = Row(record, self.generation, self.generation)
            self._by_uuid[class_name, record["uuid"]] = ref
            for name, value in fields.items():
                if name not in record:
                    raise KeyError(f"{class_name} has no field {name}")
                self._store(class_name, ref, name, value)
            self._mark(class_name, ref)
            return ref

    def destroy(self, class_name: str, ref: str) -> None:
        """Remove an object; what listed it forgets it, what pointed to it is left dangling."""
        with self._change():
            row = self.row(class_name, ref)
            for (owner, field), relation in self._forward.items():
                if owner == class_name:
                    self._unlist(relation, ref, row.record[field])
            del self._tables[class_name][ref]
            self._by_uuid.pop((class_name, row.record["uuid"]), None)
            self._recent.pop((class_name, ref), None)
            self.deletions.append(Deletion(class_name, ref, row.created, self.generation))

    def put(self, class_name: str, ref: str, **fields: Value) -> None:
        """Write fields of one object in one change.

        Raises:
            XapiFailure: HANDLE_INVALID.
        """
        with self._change():
            self.row(class_name, ref)
            for name, value in fields.items():
                self._store(class_name, ref, name, value)
            self._mark(class_name, ref)

    def touch(self, class_name: str, ref: str) -> None:
        """Announce an object as changed although no stored field is."""
        if self.exists(class_name, ref):
            self.put(class_name, ref)

    def add_pair(self, class_name: str, ref: str, field: str, key: str, value: Value) -> None:
        """Add one key to a map."""
        with self.lock:
            record = self.row(class_name, ref).record
            if key in record[field]:
                raise XapiFailure("MAP_DUPLICATE_KEY", class_name, field, record["uuid"], key)
            self.put(class_name, ref, **{field: {**record[field], key: value}})

    def set_pair(self, class_name: str, ref: str, field: str, key: str, value: Value) -> None:
        """Write one key of a map, new or not."""
        with self.lock:
            self.put(class_name, ref, **{field: {**self.get(class_name, ref, field), key: value}})

    def drop_pair(self, class_name: str, ref: str, field: str, key: str) -> None:
        """Remove one key of a map; one that is not there is no failure."""
        with self.lock:
            kept = {k: v for k, v in self.get(class_name, ref, field).items() if k != key}
            self.put(class_name, ref, **{field: kept})

    def add_item(self, class_name: str, ref: str, field: str, item: Value) -> None:
        """Add to a set; what is in it already stays there once."""
        with self.lock:
            items = self.get(class_name, ref, field)
            if item not in items:
                self.put(class_name, ref, **{field: [*items, item]})

    def drop_item(self, class_name: str, ref: str, field: str, item: Value) -> None:
        """Remove from a set; what is not in it is no failure."""
        with self.lock:
            items = [kept for kept in self.get(class_name, ref, field) if kept != item]
            self.put(class_name, ref, **{field: items})

    # -- inside ----------------------------------------------------------------------------------

    @contextmanager
    def _change(self) -> Iterator[None]:
        with self.lock:
            self.generation += 1
            yield
            self.changed.notify_all()

    def _mark(self, class_name: str, ref: str) -> None:
        self._tables[class_name][ref].modified = self.generation
        self._recent[class_name, ref] = None
        self._recent.move_to_end((class_name, ref))

    def _store(self, class_name: str, ref: str, field: str, value: Value) -> None:
        record = self._tables[class_name][ref].record
        old, record[field] = record[field], copied(value)
        if field == "uuid":
            self._by_uuid.pop((class_name, old), None)
            self._by_uuid[class_name, value] = ref
        if relation := self._forward.get((class_name, field)):
            self._unlist(relation, ref, old)
            self._list(relation, ref, value)

    def _ends(self, relation: Relation, value: Value) -> list[Row]:
        table = self._tables.get(relation.other, {})
        targets = value if isinstance(value, list) else [value]
        return [table[t] for t in targets if not is_null(t) and t in table]

    def _list(self, relation: Relation, ref: str, value: Value) -> None:
        for row in self._ends(relation, value):
            if ref not in row.record[relation.other_field]:
                row.record[relation.other_field].append(ref)
                self._announce_end(relation, row)

    def _unlist(self, relation: Relation, ref: str, value: Value) -> None:
        for row in self._ends(relation, value):
            if ref in row.record[relation.other_field]:
                row.record[relation.other_field].remove(ref)
                self._announce_end(relation, row)

    def _announce_end(self, relation: Relation, row: Row) -> None:
        self._mark(relation.other, self._by_uuid[relation.other, row.record["uuid"]])
