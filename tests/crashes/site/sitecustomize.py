"""Python imports this when it starts, wherever this folder is on PYTHONPATH: the program that is started knows nothing of it."""

import os
import sys

if os.environ.get("FATE"):
    from tests.crashes import fate

    fate.await_in("slice" if "reconciler.worker" in sys.orig_argv else "daemon")
