"""`python -m gateway`: exit 0 after a clean stop, 2 for wrong settings, 1 when it cannot start."""

import logging
import sys

import uvloop

from gateway.app import serve
from gateway.config import ConfigError, load
from gateway.telemetry.logs import LogSettings, configure_logging

log = logging.getLogger("gateway")


def main() -> int:
    configure_logging(LogSettings())
    try:
        settings = load()
        configure_logging(settings.log)
        uvloop.run(serve(settings))
    except ConfigError as error:
        for problem in error.problems:
            log.critical("%s", problem)
        return 2
    except OSError as error:
        log.critical("the gateway cannot start: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
