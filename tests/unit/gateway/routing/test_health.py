"""The health of a backend, step by step on a clock of our own."""

from gateway.routing.health import Health, HealthSettings


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def new_health() -> tuple[Health, Clock]:
    clock = Clock()
    return Health(HealthSettings(generation_interval_s=30, failures=2), clock), clock


def healthy() -> tuple[Health, Clock]:
    health, clock = new_health()
    health.generated()
    return health, clock


def test_readiness_alone_never_makes_healthy() -> None:
    health, _ = new_health()
    health.ready()
    assert health.verdict == "starting"
    assert health.generation_due()
    health.generated()
    assert health.healthy
    assert health.reason == "ok"


def test_failures_in_a_row_make_unhealthy() -> None:
    health, _ = healthy()
    health.failed("no answer")
    assert health.healthy
    health.ready()
    health.failed("no answer")
    assert health.healthy
    health.failed("still no answer")
    assert (health.verdict, health.reason) == ("unhealthy", "still no answer")


def test_one_lost_connection_makes_unhealthy_at_once() -> None:
    health, _ = healthy()
    health.lost("reset")
    assert health.verdict == "unhealthy"
    health.ready()
    assert health.verdict == "unhealthy"
    health.generated()
    assert health.healthy


def test_failures_are_counted_anew_after_a_recovery() -> None:
    health, _ = healthy()
    health.failed("a")
    health.failed("b")
    health.generated()
    health.failed("c")
    assert health.healthy


def test_a_backend_that_never_worked_says_why() -> None:
    health, _ = new_health()
    health.failed("connection refused")
    assert (health.verdict, health.reason) == ("starting", "connection refused")


def test_probes_are_faster_while_not_healthy() -> None:
    health, _ = new_health()
    assert health.interval == 0.5
    health.generated()
    assert health.interval == 2.0
    health.lost("reset")
    assert health.interval == 0.5


def test_a_token_is_generated_when_nobody_got_one_for_a_while() -> None:
    health, clock = healthy()
    clock.now += 29
    assert not health.generation_due()
    clock.now += 1
    assert health.generation_due()
    assert not health.generation_due(served_at=clock.now - 5)
    assert health.generation_due(served_at=clock.now - 30)


def test_traffic_does_not_replace_the_test_of_an_unhealthy_backend() -> None:
    health, clock = healthy()
    health.lost("reset")
    assert health.generation_due(served_at=clock.now)
