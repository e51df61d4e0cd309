"""`python -m tests.cli.local.fake_cli ...`: the `unspoken` command with fake models."""

import cli.local.launcher
from cli.main import main

if __name__ == "__main__":
    cli.local.launcher.MODULES["services"] = "tests.cli.local.fake_laptop"
    main()
