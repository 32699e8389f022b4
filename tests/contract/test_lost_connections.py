"""A PostgreSQL that goes away: whatever the driver makes of that, it is Unavailable, and the next call starts anew."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import DBAPIError
from tests.contract.conftest import copy_of
from tests.support.proxy import TcpProxy

from wherry.errors import BadRequest, Unavailable
from wherry.server.catalog import Catalog, databases, open_postgres, schema_of, upgrade_postgres

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# pg8000 leaves a socket on which it got no answer to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

FAULTS: dict[str, Callable[[Catalog, str, TcpProxy], None]] = {
    "the server ends the session": lambda _catalog, url, _proxy: end_sessions(url),
    "the connection breaks": lambda _catalog, _url, proxy: proxy.reset(),
    "no answer comes": lambda _catalog, _url, proxy: proxy.cut(),
}


@pytest.fixture(autouse=True)
def _leave_no_socket() -> Iterator[None]:
    """What the driver left open goes here, where that is known, and not amid another test."""
    yield
    gc.collect()


@pytest.fixture
def proxy(template: str) -> Iterator[TcpProxy]:
    """The way to the server."""
    with TcpProxy("127.0.0.1", make_url(template).port or 0) as proxy:
        yield proxy


@pytest.fixture
def url(template: str, request: pytest.FixtureRequest) -> str:
    """A database of this test."""
    return copy_of(template, f"lost_{abs(hash(request.node.name))}")


@pytest.fixture
def catalog(url: str, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Catalog]:
    """A catalog that is reached by way of the proxy."""
    monkeypatch.setattr(databases, "_ANSWER_S", 0.3)
    catalog = open_postgres(make_url(url).set(port=proxy.port).render_as_string(hide_password=False))
    with catalog.begin() as tx:
        tx.add_account("owner", "owner@example.invalid", "owner")
    yield catalog
    catalog.close()


def end_sessions(url: str) -> None:
    engine = create_engine(make_url(url).set(drivername="postgresql+pg8000"))
    with engine.begin() as connection:
        ours = "application_name = 'wherry' AND datname = current_database()"
        connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}")).all()
    engine.dispose()


def emails(catalog: Catalog) -> list[str]:
    with catalog.read() as reader:
        return [one.email for one in reader.accounts()]


@pytest.mark.parametrize("fault", FAULTS)
def test_amid_a_question(catalog: Catalog, url: str, proxy: TcpProxy, fault: str) -> None:
    """The question fails, and the next one is answered."""
    with pytest.raises(Unavailable), catalog.read() as reader:
        assert len(reader.accounts()) == 1
        FAULTS[fault](catalog, url, proxy)
        reader.accounts()
    proxy.mend()
    assert emails(catalog) == ["owner@example.invalid"]


@pytest.mark.parametrize("fault", FAULTS)
def test_before_a_question(catalog: Catalog, url: str, proxy: TcpProxy, fault: str) -> None:
    """A connection that broke while nobody used it is replaced; where none can be had, the question fails."""
    assert len(emails(catalog)) == 1
    FAULTS[fault](catalog, url, proxy)
    if fault == "no answer comes":
        with pytest.raises(Unavailable):
            emails(catalog)
        proxy.mend()
    assert emails(catalog) == ["owner@example.invalid"]


@pytest.mark.parametrize("moment", ["amid the block", "before the commit"])
@pytest.mark.parametrize("fault", FAULTS)
def test_amid_a_change(catalog: Catalog, url: str, proxy: TcpProxy, fault: str, moment: str) -> None:
    """The change fails as a whole, and the next one is taken.

    A commit that is on its way when the network is cut may arrive once that is mended: nobody can know, so the caller
    was told that it may pass, and it counts as a whole then.
    """
    with pytest.raises(Unavailable), catalog.begin() as tx:
        tx.add_account("lost", "lost@example.invalid", "lost")
        FAULTS[fault](catalog, url, proxy)
        if moment == "amid the block":
            tx.accounts()
    proxy.mend()
    with catalog.begin() as tx:
        tx.add_account("next", "next@example.invalid", "next")
    found = emails(catalog)
    if (fault, moment) == ("no answer comes", "before the commit"):
        found = [one for one in found if one != "lost@example.invalid"]
    assert found == ["owner@example.invalid", "next@example.invalid"]


def test_refused_by_the_server(catalog: Catalog, url: str) -> None:
    """What the server refuses for a time, such as a lock that is not to be had, is no fault of ours."""
    with pytest.raises(Unavailable), catalog.begin() as tx:
        tx.connection.execute(text("SET LOCAL statement_timeout = '50ms'"))
        tx.connection.execute(text("SELECT pg_sleep(5)"))
    with catalog.begin() as tx:
        tx.add_account("next", "next@example.invalid", "next")
    assert len(emails(catalog)) == 2


@pytest.mark.parametrize("door", ["read", "begin"])
def test_where_the_database_is_stays_in_the_log(
    catalog: Catalog, url: str, proxy: TcpProxy, caplog: pytest.LogCaptureFixture, door: str
) -> None:
    """Anyone may be shown what an Unavailable says, so it has nothing of the driver's words, which have addresses."""
    proxy.refuse()
    end_sessions(url)
    said = {"read": "The catalog does not answer.", "begin": "The catalog can't be changed now."}
    caplog.clear()
    with pytest.raises(Unavailable) as raised, getattr(catalog, door)() as connected:
        connected.accounts()
    assert raised.value.message == said[door]
    assert [line.levelname for line in caplog.records if "catalog.unavailable" in line.message] == ["WARNING"]
    assert isinstance(raised.value.__cause__, DBAPIError)
    assert str(raised.value.__cause__.orig) in caplog.text


def test_why_a_commit_failed_stays_in_the_log(catalog: Catalog, url: str, caplog: pytest.LogCaptureFixture) -> None:
    """So it is where the database goes away at the last moment."""
    with pytest.raises(Unavailable) as raised, catalog.begin() as tx:
        tx.add_account("lost", "lost@example.invalid", "lost")
        end_sessions(url)
    assert raised.value.message == "The catalog could not take the change."
    assert "catalog.unavailable" in caplog.text


def test_after_an_error_of_the_driver_itself_no_answer_is_another_questions(catalog: Catalog) -> None:
    """Text that can't be sent breaks off amid a statement: the connection is not asked again."""
    with pytest.raises(UnicodeEncodeError), catalog.read() as reader:
        reader.find_account(email="\ud800")
    for _ in range(3):
        with catalog.read() as reader:
            found = reader.first_account()
        assert found is not None
        assert found.email == "owner@example.invalid"


def test_a_reader_may_rest_between_its_questions(catalog: Catalog) -> None:
    """Only who writes keeps others waiting, and so is hurried."""
    with catalog.read() as reader:
        assert reader.connection.scalar(text("SHOW idle_in_transaction_session_timeout")) == "0"
    with catalog.begin() as tx:
        assert tx.connection.scalar(text("SHOW idle_in_transaction_session_timeout")) == "5s"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://", "a part is missing"),
        ("mysql://u@h/d", "begins with postgresql://"),
        ("postgresql://u@h:port/d", "can't be read"),
        ("postgresql://u@h/d?sslmode=prefer", "sslmode is 'prefer'"),
        ("postgresql://u@h/d?sslmode=verify-full&sslrootcert=/nowhere.pem", "/nowhere.pem can't be read"),
        ("postgresql://u@h/d?connect_timeout=3", "found connect_timeout"),
    ],
)
def test_a_url_that_is_none_is_refused(url: str, message: str) -> None:
    """What is wrong with it is said, and nothing is connected to."""
    with pytest.raises(BadRequest, match=message):
        open_postgres(url)


def test_a_secured_connection_is_not_made_in_clear(url: str) -> None:
    """A server that can't secure it is refused, where that was asked for."""
    with pytest.raises(Unavailable):
        open_postgres(f"{url}?sslmode=require")


def test_what_the_database_says_is_told_in_its_own_words(url: str) -> None:
    """Who sets it up hears of a missing database, and of a server that is not there, in one sentence."""
    for command in (schema_of, upgrade_postgres):
        with pytest.raises(Unavailable, match='^The database refuses: database "nowhere" does not exist.$'):
            command(make_url(url).set(database="nowhere").render_as_string(hide_password=False))
        with pytest.raises(Unavailable, match="^The database can't be reached: .* Check --database"):
            command(make_url(url).set(port=1).render_as_string(hide_password=False))
