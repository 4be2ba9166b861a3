"""The rules conftest.py enforces: no network, and no skip without a reason a reader can act on."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

CONFTEST = Path(__file__).parents[1] / "conftest.py"


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(CONFTEST.read_text(encoding="utf-8"))
    pytester.makeini("[pytest]\nmarkers =\n  weights\n  data\n")
    return pytester


def test_a_connection_that_leaves_the_machine_is_refused() -> None:
    with (
        socket.socket() as outside,
        pytest.raises(RuntimeError, match=r"tried to connect to \('192\.0\.2\.1'"),
    ):
        outside.connect(("192.0.2.1", 80))
    with pytest.raises(RuntimeError, match=r"tried to look up 'example\.org'"):
        socket.create_connection(("example.org", 443))


def test_loopback_stays_open() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(("localhost", server.getsockname()[1])) as client,
    ):
        client.sendall(b"x")
        accepted, _ = server.accept()
        with accepted:
            assert accepted.recv(1) == b"x"


def test_marked_skips_are_counted_and_pass(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import pytest
        @pytest.mark.data
        def test_a(): pytest.skip("no data here")
        @pytest.mark.weights
        @pytest.mark.skipif(True, reason="no weights here")
        def test_b(): pass
        def test_c(): pass
    """)
    result = project.runpytest("-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["skipped tests: 2 (1 weights, 1 data, 0 not allowed)"])


def test_every_other_skip_fails_the_run(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_call="import pytest\ndef test_a(): pytest.skip('slow')\ndef test_b(): pass",
        test_file="import pytest\npytest.importorskip('no_such_module')\ndef test_a(): pass",
        test_mark="import pytest\n@pytest.mark.skip\ndef test_a(): pass",
    )
    result = project.runpytest("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, skipped=3)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "skipped tests: 3 (0 weights, 0 data, 3 not allowed)",
            "skip refused: test_file.py (whole file)*",
            "skip refused: test_call.py::test_a *",
            "skip refused: test_mark.py::test_a *",
        ]
    )
