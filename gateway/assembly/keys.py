"""Where the composition root keeps what only it needs; what handlers need is in `gateway.api.keys`."""

from aiohttp import web
from redis.asyncio import Redis

from gateway.accounting.prices import Prices
from gateway.accounting.spool import Spool
from gateway.auth.oidc import TokenChecker
from gateway.choosing.memory import Paces
from gateway.config import Settings
from gateway.grammar.forms import Forms
from gateway.telemetry.tasks import Tasks
from gateway.tokens.offload import Offload
from gateway.tokens.prediction import Predictor
from gateway.triton.client import TritonClient
from gateway.triton.plan import Plans
from gateway.valkey.connection import Valkey
from gateway.valkey.outbox import Outbox
from gateway.valkey.sideline import SideLine

SETTINGS = web.AppKey("SETTINGS", Settings)
TASKS = web.AppKey("TASKS", Tasks)
CLIENT = web.AppKey("CLIENT", TritonClient)
REDIS = web.AppKey("REDIS", Redis)
SIDELINE = web.AppKey("SIDELINE", SideLine)
VALKEY = web.AppKey("VALKEY", Valkey)
OUTBOX = web.AppKey("OUTBOX", Outbox)
PREDICTOR = web.AppKey("PREDICTOR", Predictor)
SPOOL = web.AppKey("SPOOL", Spool)
FORMS = web.AppKey("FORMS", Forms)
PRICES = web.AppKey("PRICES", Prices)
PLANS = web.AppKey("PLANS", Plans)
PACES = web.AppKey("PACES", Paces)
SEARCHING = web.AppKey("SEARCHING", Offload)
TOKEN_CHECKER = web.AppKey("TOKEN_CHECKER", TokenChecker)
