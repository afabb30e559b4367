"""`python -m tests.fuzz`."""

import sys

from tests.fuzz.campaign import main  # apart, since processes that are started cannot import this module

sys.exit(main())
