"""`python -m adslm_helpers.training.launch.quiet_torchrun`: torchrun without its traceback; what ended, our own processes have said in words."""

from __future__ import annotations


def main() -> int:
    """As torchrun; returns the exit status of the process that failed first, 1 where it was killed, 130 after a Ctrl-C."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        run.main()
    except ChildFailedError as error:
        return max(1, error.get_first_failure()[1].exitcode)
    except SignalException:
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
