"""Keeps the cores that it may run on from halting, at the cost of nobody: whoever else wants to run is let in at once.

    python -m benchmarks.awake

Under a hypervisor a core that has nothing to do is given back, and to get it again takes from some microseconds to a
millisecond, in which whoever was to be woken there waits. At a low load every step of a request finds its core halted,
so that one measures the hypervisor. Busy hosts, and those that are set up for latency (`idle=poll`), do not halt.
"""

import os


def main() -> None:
    """Turn until it is killed."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    while True:
        pass


if __name__ == "__main__":
    main()
