"""`python -m tests.faults`."""

import sys

from tests.faults.campaign import main  # apart, since processes that are started cannot import this module

sys.exit(main())
