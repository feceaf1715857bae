"""`python -m control_plane`: exit 0 after a clean stop, 2 for wrong settings, 1 when it cannot start."""

import asyncio
import logging
import sys

from control_plane.app import serve
from control_plane.settings import SettingsError, load

log = logging.getLogger("control_plane")


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings = load()
        logging.getLogger().setLevel(settings.log_level.upper())
        asyncio.run(serve(settings))
    except SettingsError as error:
        for problem in error.problems:
            log.critical("%s", problem)
        return 2
    except OSError as error:
        log.critical("the control plane cannot start: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
