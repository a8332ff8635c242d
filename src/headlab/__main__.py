"""``python -m headlab`` is the ``headlab`` command."""

import sys

from headlab.cli import main

sys.exit(main())
