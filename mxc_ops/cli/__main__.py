"""``python -m mxc_ops.cli`` is `mxc-ops`, for where its script is not installed."""

import sys

from mxc_ops.cli import main

sys.exit(main())
