"""Every message of the model exists, takes its parameters, refuses others, answers its type."""

import random
import re
from collections import Counter
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import pytest

from lab.database import new_uuid
from lab.facts import Facts, Message, load_facts
from lab.failures import XapiFailure
from lab.pool import Pool
from lab.settings import Settings
from lab.wire.values import NULL, Date, null_value
from tests.figures import tell

FACTS: Facts = load_facts()
MESSAGES = FACTS.messages()
BACKEND = re.compile(r"SR_BACKEND_FAILURE_\d+\Z")
ENDS_THE_SESSION = ("session.logout", "session.local_logout", "pool.designate_new_master")


class Walk:
    """One pool for the whole walk, with at least one object of most classes."""

    def __init__(self) -> None:
        quick = Settings(
            wrong_password_seconds=0.0,
            conflict_seconds=0.0,
            data_destroy_seconds=0.0,
            coalesce_seconds=0.0,
        )
        self.pool = Pool(quick)
        self.pool.add_vm("walked", [4 << 20])
        self.pool.add_vm("still", [4 << 20], power_state="Halted")
        self.session = self.log_in()

    def log_in(self) -> str:
        settings = self.pool.settings
        return str(self.call("session.login_with_password", settings.username, settings.password))

    def call(self, method: str, *parameters: Any) -> Any:
        return self.pool.dispatcher.answer(method, list(parameters))

    def refusal(self, method: str, *parameters: Any) -> list[str]:
        try:
            self.call(method, *parameters)
        except XapiFailure as failure:
            return failure.description
        return []


@pytest.fixture(scope="module")
def walk() -> Any:
    walk = Walk()
    yield walk
    walk.pool.close()


def nulls(message: Message) -> list[Any]:
    return [null_value(parameter.type, FACTS.enums) for parameter in message.parameters]


WALKED: Counter[str] = Counter()
SIMPLE: dict[str, Callable[[Any], bool]] = {
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": lambda value: isinstance(value, float),
    "bool": lambda value: isinstance(value, bool),
    "datetime": lambda value: bool(re.match(r"\d{8}T\d\d:\d\d:\d\dZ\Z", value)),
}


def fits(value: Any, type_name: str) -> bool:
    """Say whether a value has exactly the form its type has on the wire."""
    if type_name in SIMPLE:
        return SIMPLE[type_name](value)
    if found := re.match(r"set\((.+)\)\Z", type_name):
        return isinstance(value, list) and all(fits(item, found[1]) for item in value)
    if found := re.match(r"map\(([^,]+),(.+)\)\Z", type_name):
        pairs = value.items() if isinstance(value, dict) else [(None, None)]
        return all(fits(k, found[1]) and fits(v, found[2]) for k, v in pairs)
    if type_name.startswith("ref "):
        return isinstance(value, str) and value.startswith("OpaqueRef:")
    if type_name.startswith("enum "):
        return value in FACTS.enums[type_name[5:]]
    return fits_record(value, type_name.removeprefix("record "))


def fits_record(value: Any, class_name: str) -> bool:
    """Say whether a value is a text, or a record with all fields of its class."""
    if class_name not in FACTS.classes:
        return isinstance(value, str | dict)
    fields = FACTS.classes[class_name].fields
    whole = isinstance(value, dict) and value.keys() == fields.keys()
    return whole and all(fits(value[name], field.type) for name, field in fields.items())


def test_the_table_holds_what_the_data_model_published() -> None:
    assert len(FACTS.classes) == 31
    assert len(MESSAGES) > 1400
    assert len(FACTS.errors) > 600


@pytest.mark.parametrize("class_name", FACTS.classes)
def test_every_message_is_counted_and_refuses_what_it_must(walk: Walk, class_name: str) -> None:
    told = Counter[str]()
    for message in FACTS.classes[class_name].messages.values():
        name, arguments = message.full_name, nulls(message)
        before = [] if message.open else [walk.session]
        expected = str(message.required)
        if message.required:
            few = walk.refusal(name, *before, *arguments[: message.required - 1])
            received = str(message.required - 1)
            assert few == ["MESSAGE_PARAMETER_COUNT_MISMATCH", name, expected, received]
            told["too few"] += 1
        if message.required == len(message.parameters):
            many = walk.refusal(name, *before, *arguments, "one more")
            received = str(message.required + 1)
            assert many == ["MESSAGE_PARAMETER_COUNT_MISMATCH", name, expected, received]
            told["too many"] += 1
        if not message.open:
            stranger = walk.refusal(name, "OpaqueRef:stranger", *arguments)
            assert stranger == ["SESSION_INVALID", "OpaqueRef:stranger"], name
            told["no session"] += 1
        if not message.asynchronous:
            refused = walk.refusal(f"Async.{name}", *before, *arguments)
            assert refused == ["MESSAGE_METHOD_UNKNOWN", f"Async.{name}"]
            told["no Async"] += 1
    print(f"{class_name}: {len(FACTS.classes[class_name].messages)} messages, {dict(told)}")


@pytest.mark.parametrize("class_name", FACTS.classes)
def test_every_message_takes_its_parameters(walk: Walk, class_name: str) -> None:
    told = Counter[str]()
    for message in FACTS.classes[class_name].messages.values():
        own = message.full_name in ENDS_THE_SESSION
        session = walk.log_in() if own else walk.session
        before = [] if message.open else [session]
        try:
            value = walk.call(message.full_name, *before, *nulls(message))
        except XapiFailure as failure:
            _check_failure(message, failure)
            told["refused with a code"] += 1
        else:
            assert not message.removed, message.full_name
            _check_value(message, value)
            told["answered"] += 1
        walk.session = walk.log_in() if own else walk.session
    print(f"{class_name}: {dict(told)}")


def real(message: Message, walk: Walk) -> list[Any]:
    """Arguments that point to what is there."""
    return [_real(parameter.type, walk) for parameter in message.parameters]


def _real(type_name: str, walk: Walk) -> Any:
    if found := re.match(r"set\((.+)\)\Z", type_name):
        item = _real(found[1], walk)
        return [] if item == NULL else [item]
    if type_name.startswith("record "):
        refs = walk.pool.db.refs(type_name[7:]) if type_name[7:] in FACTS.classes else []
        return walk.pool.db.record(type_name[7:], refs[-1]) if refs else {}
    return _another(type_name, walk)


@pytest.mark.parametrize("class_name", FACTS.classes)
def test_every_message_of_its_own_works_on_real_objects(walk: Walk, class_name: str) -> None:
    told, shared = Counter[str](), walk
    for message in FACTS.classes[class_name].messages.values():
        if message.implicit or message.removed:
            continue
        if not shared.pool.dispatcher.does(message.full_name):
            told["not modelled"] += 1
            continue
        walk = Walk()
        before = [] if message.open else [walk.session]
        try:
            value = walk.call(message.full_name, *before, *real(message, walk))
        except XapiFailure as failure:
            _check_failure(message, failure)
            told["refused"] += 1
        else:
            _check_value(message, value)
            told["done"] += 1
        walk.pool.close()
    print(f"{class_name}: {dict(told)}")
    WALKED.update(told)


def _check_failure(message: Message, failure: XapiFailure) -> None:
    known = failure.code in FACTS.errors or BACKEND.match(failure.code)
    assert known, f"{message.full_name} fails with {failure.description}"
    assert failure.code != "MESSAGE_METHOD_UNKNOWN" or message.name == "call_extension"
    assert (failure.code == "MESSAGE_REMOVED") == message.removed, message.full_name
    if failure.code == "INTERNAL_ERROR":
        assert message.constructor is not None, f"{message.full_name}: {failure.description}"
    names = FACTS.errors.get(failure.code)
    if names and not failure.code.startswith(("NETWORK_CONTAINS", "SESSION_AUTH")):
        assert len(failure.parameters) == len(names), failure.description


def _check_value(message: Message, value: Any) -> None:
    if message.full_name == "event.from":
        assert value.keys() == {"events", "token", "valid_ref_counts"}
    elif message.result is None:
        assert value is None, f"{message.full_name} answers {value!r}"
    else:
        assert fits(value, message.result), f"{message.full_name} answers {value!r}"


ODD = [5, -1, 1 << 70, "x", "", NULL, [], {}, True, None, 1.5, [[1]], {"a": [1]}, ["x"], "\0", "é"]


@pytest.mark.parametrize("class_name", FACTS.classes)
def test_whatever_is_sent_the_answer_is_a_value_or_a_code(class_name: str) -> None:
    walk, chance = Walk(), random.Random(class_name)
    for message in FACTS.classes[class_name].messages.values():
        if message.removed or message.full_name in (*ENDS_THE_SESSION, "event.from"):
            continue
        for _ in range(2):
            given = [chance.choice((a, a, chance.choice(ODD))) for a in real(message, walk)]
            for name, value in enumerate(given):
                if isinstance(value, dict) and value:
                    key = chance.choice(list(value))
                    given[name] = {**value, key: chance.choice(ODD)}
            if not walk.pool.db.exists("session", walk.session):
                walk.session = walk.log_in()
            answer = walk.refusal(message.full_name, *[walk.session][message.open :], *given)
            assert not answer or answer[0] in FACTS.errors or BACKEND.match(answer[0]), answer
    walk.pool.close()


def test_a_removed_message_says_so_after_the_session_check(walk: Walk) -> None:
    removed = [message for message in MESSAGES if message.removed]
    for message in removed:
        assert walk.refusal(message.full_name, walk.session, *nulls(message)) == ["MESSAGE_REMOVED"]
        stranger = walk.refusal(message.full_name, "OpaqueRef:stranger", *nulls(message))
        assert stranger[0] == "SESSION_INVALID"
    print(f"{len(removed)} removed messages")
    assert removed


def test_every_object_has_a_record_of_exactly_its_fields_and_types(walk: Walk) -> None:
    checked = 0
    for class_name, facts in FACTS.classes.items():
        if "get_all_records" not in facts.messages or facts.messages["get_all_records"].removed:
            continue
        for record in walk.call(f"{class_name}.get_all_records", walk.session).values():
            assert record.keys() == facts.fields.keys()
            for name, field in facts.fields.items():
                assert fits(record[name], field.type), f"{class_name}.{name}: {record[name]!r}"
                checked += 1
    print(f"{checked} field values have the form of their type")
    assert checked > 1000


def test_every_getter_answers_what_the_record_holds(walk: Walk) -> None:
    checked = 0
    for class_name, facts in FACTS.classes.items():
        if "get_all" not in facts.messages or facts.messages["get_all"].removed:
            continue
        for ref in walk.call(f"{class_name}.get_all", walk.session)[:2]:
            record = walk.call(f"{class_name}.get_record", walk.session, ref)
            for name in facts.fields:
                getter = facts.messages.get(f"get_{name}")
                if getter is None or getter.removed:
                    continue
                value = walk.call(getter.full_name, walk.session, ref)
                assert value == record[name] or name == "last_active", getter.full_name
                checked += 1
    print(f"{checked} getters agree with the record")
    assert checked > 500


def test_every_writable_field_takes_what_is_written(walk: Walk) -> None:
    checked = 0
    for class_name, facts in FACTS.classes.items():
        if "get_all" not in facts.messages or facts.messages["get_all"].removed:
            continue
        refs = walk.call(f"{class_name}.get_all", walk.session)
        for name, field in facts.fields.items():
            setter = facts.messages.get(f"set_{name}")
            if not refs or setter is None or setter.removed or not setter.implicit:
                continue
            if setter.full_name == "VM.set_xenstore_data":  # keeps what guests may see
                continue
            value = _another(field.type, walk)
            walk.call(setter.full_name, walk.session, refs[-1], value)
            assert walk.pool.db.get(class_name, refs[-1], name) == value, setter.full_name
            checked += 1
    print(f"{checked} setters take hold")
    assert checked > 40


def _another(type_name: str, walk: Walk) -> Any:
    values: dict[str, Any] = {
        "string": "changed",
        "int": 1 << 40,
        "float": 0.5,
        "bool": True,
        "datetime": Date("20260101T00:00:00Z"),
        "map(string,string)": {"k": "v", "ä<&>": ""},
        "set(string)": ["a", "b"],
    }
    if type_name in values:
        return values[type_name]
    if type_name.startswith("enum "):
        return FACTS.enums[type_name[5:]][-1]
    if type_name.startswith("ref "):
        refs = walk.pool.db.refs(type_name[4:]) if type_name[4:] in FACTS.classes else []
        return refs[0] if refs else NULL
    return null_value(type_name, FACTS.enums)


def test_every_asynchronous_message_answers_with_a_task(walk: Walk) -> None:
    done, codes = 0, Counter[str]()
    for message in MESSAGES:
        if not message.asynchronous or message.open or message.full_name in ENDS_THE_SESSION:
            continue
        if message.removed:
            continue
        arguments = nulls(message)
        try:
            task = walk.call(f"Async.{message.full_name}", walk.session, *arguments)
        except XapiFailure as failure:
            codes[failure.code] += 1
        else:
            record = walk.pool.db.record("task", task)
            assert record["name_label"] == f"Async.{message.full_name}"
        done += 1
    assert codes.keys() <= {"HANDLE_INVALID", "TOO_MANY_PENDING_TASKS"}
    print(f"{done} asynchronous forms")
    assert done > 350


def test_an_unknown_method_is_named(walk: Walk) -> None:
    for name in (
        "VM.fly",
        "fly",
        "Async.VM.get_all",
        "VM.get_all.more",
        "Async.system.listMethods",
    ):
        assert walk.refusal(name, walk.session) == ["MESSAGE_METHOD_UNKNOWN", name]


def test_an_unknown_reference_or_uuid_is_named(walk: Walk) -> None:
    lost = f"OpaqueRef:{new_uuid()}"
    for class_name, facts in FACTS.classes.items():
        if "get_record" in facts.messages and not facts.messages["get_record"].removed:
            refused = walk.refusal(f"{class_name}.get_record", walk.session, lost)
            assert refused == ["HANDLE_INVALID", class_name, lost]
        if "get_by_uuid" in facts.messages and not facts.messages["get_by_uuid"].removed:
            refused = walk.refusal(f"{class_name}.get_by_uuid", walk.session, "nobody")
            assert refused == ["UUID_INVALID", class_name, "nobody"]


def test_a_value_of_the_wrong_type_is_blamed_by_its_name(walk: Walk) -> None:
    vm = walk.pool.vm("walked")
    for method, value, name in (
        ("VM.set_name_label", 5, "value"),
        ("VM.set_is_a_template", "true", "value"),
        ("VM.set_tags", "tag", "value"),
        ("VM.set_user_version", "seven", "value"),
        ("VM.set_user_version", str(1 << 63), "value"),
        ("VM.set_actions_after_shutdown", "explode", "value"),
    ):
        assert walk.refusal(method, walk.session, vm, value) == ["FIELD_TYPE_ERROR", name]


def test_what_is_not_modelled_is_exactly_what_the_readme_names(walk: Walk) -> None:
    named = _named_in_the_readme()
    lacking = [
        message.full_name
        for message in MESSAGES
        if not message.removed and not walk.pool.dispatcher.does(message.full_name)
    ]
    assert sorted(named) == sorted(lacking)
    for name in lacking:
        message = FACTS.classes[name.split(".")[0]].messages[name.split(".")[1]]
        before = [] if message.open else [walk.session]
        answer = walk.refusal(name, *before, *real(message, walk))
        assert answer == ["NOT_IMPLEMENTED", name] or answer[0] == "HANDLE_INVALID", name
    tell(f"messages of the lab that are not modelled: {len(lacking)} of {len(MESSAGES)}")


def _named_in_the_readme() -> list[str]:
    """The messages of the table: `| why | VM: `csvm`, `import`; host: `dmesg` |`."""
    told = (files("lab") / "README.md").read_text().split("### Messages", 1)[1]
    rows = [row.split("|")[2] for row in told.splitlines() if row.count("|") == 3]
    named = []
    for part in (part for row in rows for part in row.split(";")):
        classes, _, messages = part.partition(":")
        for message in re.findall(r"`(\w+)`", messages):
            known = [(n, f.messages.get(message)) for n, f in FACTS.classes.items()]
            every = [name for name, one in known if one is not None and not one.removed]
            named += [
                f"{c}.{message}" for c in (every if "every" in classes else [classes.strip()])
            ]
    return named


def test_the_whole_walk_is_counted() -> None:
    removed = sum(message.removed for message in MESSAGES)
    WALKED["messages"] = len(MESSAGES)
    print(f"{len(MESSAGES)} messages of {len(FACTS.classes)} classes, {removed} of them removed")
    counts = ", ".join(f"{what}: {n}" for what, n in WALKED.items())
    tell(f"conformance of the lab: {counts}")
    assert len({message.full_name for message in MESSAGES}) == len(MESSAGES)
