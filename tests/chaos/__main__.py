"""`python -m tests.chaos`: the chaos suite at full size; `make chaos` and `make chaos-long`.

Prints one JSON line with the measured end state and the failed expectations. The exit status is 0
if there are none. Without a given seed, a random one is drawn; it is printed first.
"""

import argparse
import json
import secrets
import sys
import tempfile
from pathlib import Path

from tests.chaos.campaign import Scale, run_campaign, run_small_models
from tests.chaos.redis_memory import MAX_MIB, NUM_ROWS, redis_mib


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=2, help="how often each kind of fault comes")
    parser.add_argument("--longest-s", type=float, default=5.0, help="that one fault lasts")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--out", type=Path, help="kept where given: logs, runs, executions")
    arguments = parser.parse_args()
    scale = Scale(arguments.chunks, arguments.rounds, (1.0, arguments.longest_s))
    sys.stderr.write(f"chaos: seed {arguments.seed}\n")
    with tempfile.TemporaryDirectory(prefix="unspoken-chaos-") as folder:
        findings = run_campaign(arguments.out or Path(folder) / "rig", scale, seed=arguments.seed)
        small = run_small_models(Path(folder) / "small", seed=arguments.seed)
        mib = redis_mib(Path(folder) / "millions")
    findings.figures |= small.figures
    findings.faults += small.faults
    findings.figures["redis_mib_5m_rows"] = round(mib, 1)
    findings.want(mib <= MAX_MIB, f"Redis holds {mib:.1f} MiB for {NUM_ROWS} rows")
    sys.stdout.write(json.dumps({"chaos": findings.figures}) + "\n")
    for fault in findings.faults:
        sys.stdout.write(f"chaos: does not hold (seed {arguments.seed}): {fault}\n")
    sys.exit(1 if findings.faults else 0)


if __name__ == "__main__":
    main()
