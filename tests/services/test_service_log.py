"""The log of a service process, from its start to its end."""

import re
import signal
import subprocess
import sys

from unspoken.config.settings import child_environment

ENTRY = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING|ERROR|CRITICAL) [\w.]+ \S.*"
)


def test_a_service_writes_log_lines_only_and_no_bars_or_reports_of_libraries():
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "services.detector"],
        env=child_environment(DETECTOR_PORT="0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        lines = []
        for line in process.stdout:
            lines.append(line.decode().rstrip("\n"))
            if lines[-1].endswith("ready service=detector"):
                process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
    assert any("ready service=detector" in line for line in lines)
    assert [line for line in lines if not ENTRY.fullmatch(line)] == []
