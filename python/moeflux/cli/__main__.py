"""`python -m moeflux.cli`."""

import sys

from moeflux.cli import main

sys.exit(main())
