"""`python -m gateway`: exit 0 after a clean stop, 2 for wrong settings, 1 when it cannot start."""

import gc
import logging
import sys

import uvloop

from gateway.config import ConfigError, load
from gateway.server import serve
from gateway.telemetry.logs import LogSettings, configure_logging

log = logging.getLogger("gateway")

# Objects made before the youngest generation is looked through: several requests' worth, not a part of one.
YOUNG_OBJECTS = 20_000


def main() -> int:
    configure_logging(LogSettings())
    try:
        settings = load()
        configure_logging(settings.log)
        spare_the_collector()
        uvloop.run(serve(settings))
    except ConfigError as error:
        for problem in error.problems:
            log.critical("%s", problem)
        return 2
    except OSError as error:
        log.critical("the gateway cannot start: %s", error)
        return 1
    return 0


def spare_the_collector() -> None:
    """Modules and tables live as long as the process: what is imported by now is never looked through again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)


if __name__ == "__main__":
    sys.exit(main())
