"""The prep worker: ``python -m mxc_ops.prep.worker``, one JSON message a line in and out (see `engine`).

It is a process of its own because pyinfra needs gevent to patch the whole process.
"""

from __future__ import annotations


def main() -> int:
    from gevent import monkey

    monkey.patch_all()

    from mxc_ops.prep.engine import serve

    return serve()


if __name__ == "__main__":
    raise SystemExit(main())
