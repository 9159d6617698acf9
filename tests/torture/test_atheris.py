"""The same targets under atheris, guided by coverage, for as long as one likes."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.torture.targets import TARGETS

SECONDS = int(os.environ.get("LIKENESS_FUZZ_SECONDS", "60"))

RUN = """
import sys, atheris
with atheris.instrument_imports(include=["likeness", "tests.torture", "msgspec"]):
    from tests.torture.targets import TARGETS, harmless
target = TARGETS[sys.argv.pop(1)]
atheris.Setup(sys.argv, lambda data: None if harmless(target, data) is None else None)
atheris.Fuzz()
"""


@pytest.mark.torture
@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="atheris is not installed: no wheel for this Python, so coverage-guided fuzzing is OUT",
)
@pytest.mark.parametrize("name", TARGETS)
def test_a_guided_fuzzer_finds_no_undeclared_error(name: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            RUN,
            name,
            str(corpus),
            f"-max_total_time={SECONDS}",
            "-rss_limit_mb=512",
            "-timeout=5",
            "-max_len=4096",
            f"-artifact_prefix={tmp_path}/",
        ],
        capture_output=True,
        text=True,
        timeout=SECONDS + 120,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-4000:]
    assert "Done" in done.stderr
