"""`python -m tests.cli.fake_cli ...`: the `unspoken` command, with services on fake models."""

import cli.local.launcher
from cli.main import main

if __name__ == "__main__":
    cli.local.launcher.MODULES["services"] = "tests.cli.fake_laptop"
    main()
