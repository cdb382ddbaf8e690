"""`python -m lmstudio_bridge`: the same as the command `lmstudio-bridge`."""

import sys

from lmstudio_bridge.cli.main import main

sys.exit(main())
