"""`python -m adslm_helpers` is `adslm`."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
