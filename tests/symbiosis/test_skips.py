"""The guard against skips: it fires in CI, and is silent elsewhere and without skips."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("ci", "skipping", "code"), [("true", True, 1), ("true", False, 0), ("", True, 0)])
def test_a_skip_fails_the_run_in_ci_alone(tmp_path, ci, skipping, code):
    body = "pytest.skip('no reason')" if skipping else "pass"
    (tmp_path / "test_it.py").write_text(f"import pytest\n\ndef test_it():\n    {body}\n\ndef test_more():\n    pass\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "-p", "tests.fixtures.skips",
         "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)],
        env={**os.environ, "CI": ci, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )
    assert done.returncode == code, done.stdout
    assert ("in CI there are none" in done.stdout) == (code == 1)
