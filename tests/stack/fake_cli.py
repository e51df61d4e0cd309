"""`python -m tests.stack.fake_cli ...`: the `unspoken` command, with services on fake models."""

import stack.launcher
from stack.cli import main

if __name__ == "__main__":
    stack.launcher.MODULES["services"] = "tests.stack.fake_laptop"
    main()
