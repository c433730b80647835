"""`python -m swarmd` is the command `swarmd`."""

import sys

from swarmd.cli import main

sys.exit(main())
