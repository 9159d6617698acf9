"""Cut the lab's table of facts out of a dump of the XenServer API.

`python -m lab.make_facts SIGNATURES.json` writes `lab/facts.json`. The dump lists every class,
field and message of the server's own data model; only what the lab acts on is kept: types,
defaults, parameters, declared errors, and whether a message was removed, is hidden, or has an
`Async.` form.
"""

import argparse
import json
from pathlib import Path
from typing import Any

LEAST_ROLE = "read-only"
TARGET = Path(__file__).with_name("facts.json")


def _field(raw: list[Any]) -> dict[str, Any]:
    cut = {"type": raw[0], "qualifier": raw[1]}
    if len(raw) > 3:
        cut["default"] = raw[3]
    return cut


def _message(raw: dict[str, Any]) -> dict[str, Any]:
    cut = {"params": raw["p"], "result": raw["r"]}
    for key, name in (("e", "errors"), ("ctor", "constructor"), ("hidden", "hidden")):
        if key in raw:
            cut[name] = raw[key]
    if raw.get("async") == 0:
        cut["synchronous"] = True
    if raw.get("session") == 0:
        cut["open"] = True
    if " R:" in raw["rel"]:
        cut["removed"] = True
    if raw.get("implicit"):
        cut["implicit"] = True
    if raw["role"] != LEAST_ROLE:
        cut["role"] = raw["role"]
    return cut


def _lines(value: Any, depth: int) -> str:
    """Lay JSON out with one line per field or message, so that a change shows as a change."""
    if depth == 0 or not isinstance(value, dict) or not value:
        return json.dumps(value, separators=(",", ":"))
    inside = ",\n".join(f"{json.dumps(k)}:{_lines(v, depth - 1)}" for k, v in value.items())
    return "{\n" + inside + "\n}"


def cut_facts(dump: dict[str, Any]) -> dict[str, Any]:
    """Keep of a whole dump what the lab needs."""
    classes = {
        name: {
            "events": raw["events"],
            "fields": {field: _field(text) for field, text in raw["fields"].items()},
            "messages": {message: _message(text) for message, text in raw["messages"].items()},
        }
        for name, raw in dump["classes"].items()
    }
    return {
        "source": dump["_about"]["source"],
        "api_version": dump["api_version"],
        "enums": dump["enums"],
        "errors": {**dump["errors"], **dict.fromkeys(dump["errors_more"])},
        "relations": dump["relations"],
        "classes": classes,
    }


def main() -> None:
    """Read the dump named on the command line and write the facts beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("signatures", type=Path, help="the dump of the data model, as JSON")
    arguments = parser.parse_args()
    facts = cut_facts(json.loads(arguments.signatures.read_text()))
    TARGET.write_text(_lines(facts, 4) + "\n")


if __name__ == "__main__":
    main()
