"""The cases under test, and what their tests stand on: a PostgreSQL, services, nothing left."""

import itertools
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import psutil  # type: ignore[import-untyped]
import psycopg
import pytest
from client import Broker, Service, assert_no_error, eventually

from common.database import Database
from common.postgres import EmbeddedPostgres
from common.queries.state import empty_everything

CASES = ["casev1", "casev2", "casev3"]
# Those that reply before the database knows, those that read from it, and those that do both.
MEMORY_CASES = [case for case in CASES if case != "casev1"]
READING_CASES = [case for case in CASES if case != "casev3"]
READS_BEHIND = [case for case in MEMORY_CASES if case in READING_CASES]

NewDatabase = Callable[[], str]
StartService = Callable[..., Service]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "matches_in_memory: only for cases that match in memory")
    config.addinivalue_line("markers", "reads_the_database: only for cases whose reads are SQL")
    config.addinivalue_line("markers", "any_case: about code that all cases share; one is enough")
    config.addinivalue_line("markers", "alone: measures, so nothing else may run beside it")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test that starts a service runs on every case."""
    if "case" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker
        cases = MEMORY_CASES if marker("matches_in_memory") else CASES
        if marker("reads_the_database"):
            cases = [case for case in cases if case in READING_CASES]
        if marker("any_case"):
            cases = cases[-1:]
        metafunc.parametrize("case", cases, indirect=True, scope="session")


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """What a command does with signals does not outlive the test that calls it."""
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def reads_memory(case: str) -> bool:
    """Whether reads go on without the database."""
    return case not in READING_CASES


@pytest.fixture(scope="session")
def session_dir() -> Iterator[Path]:
    """Where tests keep everything. At the end nothing is in it, and nothing runs on it."""
    place = Path(tempfile.mkdtemp(prefix="exchange-tests-")).resolve()
    place.chmod(0o755)  # under root the embedded server runs under another account
    yield place
    try:
        assert processes_of(place) == []
        place.rmdir()  # which it cannot, if anything is left there
    finally:
        shutil.rmtree(place, ignore_errors=True)


def processes_of(place: Path) -> list[str]:
    """The command lines that name the directory."""
    lines = (" ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"]))
    return [line for line in lines if str(place) in line]


@pytest.fixture(scope="session")
def new_place(session_dir: Path) -> Iterator[Callable[[], Path]]:
    """Makes directories that the embedded server's account can enter; they go at the end."""
    numbers = itertools.count()
    places: list[Path] = []

    def make() -> Path:
        place = session_dir / f"place{next(numbers)}"
        place.mkdir(mode=0o755)
        places.append(place)
        return place

    yield make
    for place in places:
        shutil.rmtree(place)


@pytest.fixture(scope="session")
def postgres(new_place: Callable[[], Path]) -> Iterator[EmbeddedPostgres]:
    """The one server of the session."""
    with EmbeddedPostgres(new_place() / "server") as server:
        yield server


@pytest.fixture(scope="session")
def mortal_dir(new_place: Callable[[], Path]) -> Path:
    return new_place() / "server"


@pytest.fixture
def mortal(mortal_dir: Path) -> Iterator[EmbeddedPostgres]:
    """A server for tests that stop it. What one of them leaves in it, the next one finds."""
    server = EmbeddedPostgres(mortal_dir)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def new_database(postgres: EmbeddedPostgres) -> Iterator[NewDatabase]:
    """Makes empty databases. They go with the server; at the end nobody is connected to them."""
    numbers = itertools.count()

    def make() -> str:
        name = f"test{next(numbers)}"
        execute(postgres.url, f"CREATE DATABASE {name}")
        return postgres.url.replace("/exchange?", f"/{name}?")

    yield make
    connected = "SELECT datname, query FROM pg_stat_activity WHERE datname LIKE 'test%'"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        eventually(lambda: not connection.execute(connected.encode()).fetchall())


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


async def emptied(url: str, log_id: UUID | None = None) -> None:
    """What a reset does to the database, before it comes to anything else."""
    async with Database(url, pool_size=1, pool_wait_ms=1000).opened() as database:
        await database.commit(*empty_everything(log_id))


@pytest.fixture(scope="session")
def start_shared(
    case: str, new_database: NewDatabase, new_place: Callable[[], Path]
) -> Iterator[StartService]:
    """As ``start_service``, for services that many tests use."""
    yield from services(case, new_database, new_place)


@pytest.fixture
def start_service(
    case: str, new_database: NewDatabase, new_place: Callable[[], Path]
) -> Iterator[StartService]:
    """Starts services: ``start_service(database_url, EXCHANGE_…=…)``, None unsets a variable.

    A new database is made unless one is named; ``ready=False`` does not wait until it serves, and
    ``module`` is run in place of the case's own.
    Those that still run when the test ends are stopped, and must end well.
    """
    yield from services(case, new_database, new_place)


def services(
    case: str, new_database: NewDatabase, new_place: Callable[[], Path]
) -> Iterator[StartService]:
    started: list[Service] = []

    def start(
        database_url: str | None = None,
        *,
        ready: bool = True,
        embedded: bool = False,
        module: str | None = None,
        **settings: str | None,
    ) -> Service:
        url = None if embedded else database_url or new_database()
        behind = case in READS_BEHIND
        log = new_place() / "log"
        service = Service(case, log, url, settings, reads_behind=behind, module=module)
        started.append(service)
        if ready:
            service.wait_until_ready()
        return service

    try:
        yield start
        running = [service for service in started if service.running()]
        for service in running:
            service.send_signal(signal.SIGTERM)
        for service in running:
            service.expect_good_end()
    finally:
        for service in started:
            if service.running():
                service.kill()


@pytest.fixture(scope="session")
def shared_service(start_shared: StartService) -> Service:
    return start_shared()


@pytest.fixture
def used_service(shared_service: Service) -> Iterator[Service]:
    """A running service with what other tests have left. The test must leave no error in its log.

    For tests that only want a broker of their own.
    """
    known = len(shared_service.text())
    yield shared_service
    assert shared_service.running()
    assert_no_error(shared_service.text()[known:])


@pytest.fixture
def service(used_service: Service) -> Service:
    """A running, empty service."""
    used_service.reset()
    return used_service


@pytest.fixture
def alice(service: Service) -> Broker:
    return service.register("Alice")


@pytest.fixture
def bob(service: Service) -> Broker:
    return service.register("Bob")
