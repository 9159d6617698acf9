"""A job that cannot be is refused in a sentence about what was given."""

from typing import Any

import pytest
from pydantic import ValidationError

from likeness.model.job import RULES, BackupJob

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"concurrency": -1}, "'concurrency' cannot be -1: give a whole number from 1 to 64"),
    ({"concurrency": 1.5}, "'concurrency' cannot be 1.5: give a whole number"),
    ({"concurrency": "many"}, "'concurrency' cannot be 'many': give a whole number"),
    ({"concurrency": 10**5000}, "'concurrency' cannot be that number"),
    ({"bandwidth_mib": -1}, "'bandwidth_mib' cannot be -1: give a whole number from 0"),
    ({"bandwidth_mib": 1 << 62}, "give a whole number from 0 to 1048576"),
    ({"bandwidth_mib": float("inf")}, "'bandwidth_mib' cannot be inf"),
    ({"check_before_sending": "some"}, "choose all, sampled or off"),
    ({"vms": ["web", " "]}, "'vms' cannot be ' ': give a list of names"),
    ({"vms": "web"}, "'vms' cannot be 'web': give a list of names"),
    ({"tags": ["a\0b"]}, "'tags' cannot be "),
    ({"hosts": ["x" * 5000]}, "'hosts' cannot be "),
    ({"name": " "}, "'name' cannot be ' '"),
    ({"only_disks": {"db": []}}, "at least one disk"),
    ({"exclude_disks": ["2"]}, "each with a list of disks"),
    ({"exclude_disks": {"db": [2]}}, "'exclude_disks' cannot be 2"),
    ({"consistency": "snapshot"}, "choose standard, quiesced, memory or offline"),
    ({"concurency": 2}, "a job has no setting 'concurency'; did you mean 'concurrency'?"),
    ({"name": None}, "'name' cannot be None"),
]


@pytest.mark.parametrize(("given", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_cannot_be_is_told_in_a_sentence(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        BackupJob.model_validate({"name": "nightly", **given})

    (problem,) = refused.value.errors()
    assert said in problem["msg"]
    assert len(problem["msg"].split()) < 40
    assert len(problem["msg"]) < 300


def test_every_setting_has_its_rule() -> None:
    assert sorted(RULES) == sorted(BackupJob.model_fields)
