from __future__ import annotations

from pathlib import Path

import pytest

from wherry.errors import BadRequest
from wherry.server.regions.file import (
    EncryptionSettings,
    RegionSettings,
    ServedRegions,
    load_regions_file,
    served_regions,
)
from wherry.server.rules.dispatch import Limits
from wherry.server.settings import Settings, load_regions
from wherry.server.storage import StoreOptions

WHOLE = """
[regions.nyc3]
name = "New York, by hand"
store = "s3://images/nyc3"
endpoint = "http://127.0.0.1:9000"
provider_region = "us-east-1"
credentials = "NYC3"
connect_timeout_s = 2
request_timeout_s = 12.5
retries = 1
retry_for_s = 6

[regions.nyc3.limits]
transfers = 4
bytes_per_s = "50MiB"

[regions.nyc3.encryption]
key_env = "NYC3_KEYS"

[regions.ams3]
store = "/srv/ams3"
encryption = { key_file = "/etc/wherry/ams3.keys" }

[regions.cellar]
store = "file:///srv/cellar"
limits = { bytes_per_s = 1_000_000 }

[regions.attic]
name = "The attic"
store = "gs://attic"

[regions.azure]
store = "az://container/prefix"
credentials = "AZURE_A"

[[pairs]]
from = "nyc3"
to = "ams3"
transfers = 2
bytes_per_s = "10 MB"

[[pairs]]
from = "ams3"
to = "nyc3"
"""


def read(tmp_path: Path, text: str) -> ServedRegions:
    path = tmp_path / "regions.toml"
    path.write_text(text, encoding="utf-8")
    return load_regions_file(path)


def test_everything_that_a_file_may_say(tmp_path: Path) -> None:
    """Each key arrives where it belongs, and the regions keep the order of the file."""
    served = read(tmp_path, WHOLE)

    assert list(served.regions) == ["nyc3", "ams3", "cellar", "attic", "azure"]
    nyc3 = served.regions["nyc3"]
    assert nyc3.region.name == "New York, by hand"
    assert nyc3.store_url == "s3://images/nyc3"
    assert nyc3.options == StoreOptions("http://127.0.0.1:9000", "us-east-1", "NYC3", 2, 12.5, 1, 6)
    assert nyc3.limits == Limits(4, 50 << 20)
    assert nyc3.encryption == EncryptionSettings(key_env="NYC3_KEYS")
    assert served.regions["ams3"].encryption == EncryptionSettings(key_file=Path("/etc/wherry/ams3.keys"))
    assert served.regions["cellar"].limits == Limits(None, 1_000_000)
    assert served.regions["azure"].options == StoreOptions(credentials="AZURE_A")
    assert served.pairs == {("nyc3", "ams3"): Limits(2, 10_000_000), ("ams3", "nyc3"): Limits()}


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    """The file that the page on stores shows can be read."""
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "stores.md").read_text(encoding="utf-8")
    served = read(tmp_path, page.partition("```toml\n")[2].partition("```")[0])

    assert list(served.regions) == ["nyc3", "ams3"]
    assert served.pairs == {("nyc3", "ams3"): Limits(2, 10 << 20)}


def test_what_a_file_need_not_say(tmp_path: Path) -> None:
    """A region that is known keeps its facts; a store is reached as usual, without limits and encryption."""
    served = read(tmp_path, '[regions.nyc3]\nstore = "/srv/nyc3"\n')

    assert served == ServedRegions({"nyc3": RegionSettings(load_regions()["nyc3"], "/srv/nyc3")})


def test_a_new_region_can_do_what_most_can(tmp_path: Path) -> None:
    """A slug that nobody knew has transfers and every size, and is named by its slug unless told."""
    served = read(tmp_path, WHOLE).regions
    cellar, attic = served["cellar"].region, served["attic"].region

    assert (cellar.slug, cellar.name, attic.name, cellar.available) == ("cellar", "CELLAR", "The attic", True)
    assert "image_transfer" in cellar.features
    assert len(cellar.sizes) == max(len(region.sizes) for region in load_regions().values())


A = "[regions.a]\nstore = '/a'\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[regions", "regions.toml is no TOML: .*"),
        ("", r"regions: expected at least one table \[regions.SLUG\]; found nothing"),
        ("regions = 5", "regions: expected a table; found an integer"),
        ("[region.nyc3]\nstore = '/a'", "region: there is no such key"),
        ("[regions]\nnyc3 = '/a'", r"\[regions\] nyc3: expected a table; found a string"),
        ("[regions.NYC]\nstore = '/a'", r"\[regions\] NYC: expected a slug"),
        ("[regions.a]", r"\[regions.a\] store: expected a string; found nothing"),
        ("[regions.a]\nstore = 5", r"\[regions.a\] store: expected a string; found an integer"),
        ("[regions.a]\nstore = 'ftp://x/y'", r"\[regions.a\] store: expected s3://.*found 'ftp://x/y'"),
        ("[regions.a]\nstore = 'srv/a'", r"store: expected .*absolute path; found 'srv/a'"),
        ("[regions.a]\nstore = 's3:///a'", r"store: expected s3://BUCKET"),
        ("[regions.a]\nstore = 'file://host/a'", r"store: expected s3://.*found 'file://host/a'"),
        (A + "stor = 1", r"\[regions.a\] stor: there is no such key"),
        (A + "name = true", r"\[regions.a\] name: expected a string; found true or false"),
        ("[regions.a]\nstore = 's3://a'\nendpoint = 'host:9000'", r"endpoint: expected http://HOST"),
        (A + "endpoint = 'http://host'", r"endpoint: expected nothing: the store is a folder"),
        ("[regions.a]\nstore = 's3://a'\nretries = 2.5", r"retries: expected an integer; found a number"),
        ("[regions.a]\nstore = 's3://a'\nrequest_timeout_s = 0", r"request_timeout_s: expected seconds.*found 0"),
        ("[regions.a]\nstore = 's3://a'\nretry_for_s = '9'", r"retry_for_s: expected seconds.*found '9'"),
        (A + "limits = 4", r"\[regions.a\] limits: expected a table; found an integer"),
        (A + "[regions.a.limits]\ntransfers = 0",
         r"\[regions.a.limits\] transfers: expected an integer from 1 on; found 0"),
        (A + "[regions.a.limits]\ntransfers = true",
         r"\[regions.a.limits\] transfers: expected an integer; found true or false"),
        (A + "[regions.a.limits]\nbytes_per_s = '50 furlongs'",
         r"\[regions.a.limits\] bytes_per_s: expected bytes, .*found '50 furlongs'"),
        (A + "[regions.a.limits]\nbytes_per_s = '0MiB'", r"bytes_per_s: expected bytes"),
        (A + "[regions.a.limits]\nbytes = 1", r"\[regions.a.limits\] bytes: there is no such"),
        (A + "[regions.a.encryption]", r"\[regions.a.encryption\] key_env: .*found neither"),
        (A + "encryption = {key_env = 'A', key_file = '/a'}", r"key_env: .*found both"),
        (A + "encryption = {key_file = 'a'}", r"key_file: expected an absolute path; found 'a'"),
        (A + "[pairs]\nfrom = 'a'", r"pairs: expected a list; found a table"),
        ("pairs = [5]\n" + A, r"pairs: expected tables, each under \[\[pairs\]\]"),
        (A + "[[pairs]]\nfrom = 'a'", r"\[pairs, number 1\] to: expected a string; found nothing"),
        (A + "[[pairs]]\nfrom = 'a'\nto = 'b'", r"to: expected a region of this file \(a\)"),
        (A + "[[pairs]]\nfrom = 'a'\nto = 'a'", r"to: expected another region than 'from'"),
        (A + "[regions.b]\nstore = '/b'\n" + 2 * "[[pairs]]\nfrom = 'a'\nto = 'b'\n",
         r"\[pairs, number 2\] to: expected a pair that is not there yet"),
        (A + "[regions.b]\nstore = 'file:///a/'", r"\[regions.b\] store: .*the region a has"),
        ("[regions.a]\nstore = 's3://x/one/two'\n[regions.b]\nstore = 's3://x/one'", r"store: .*region a"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    """Whatever is not known or not of its kind is refused with the file, the table, the key, and what is wanted."""
    with pytest.raises(BadRequest, match=said) as caught:
        read(tmp_path, text)
    assert str(tmp_path / "regions.toml") in caught.value.message


@pytest.mark.parametrize(
    "line",
    [
        "secret_access_key = 'made-up'", "access_key_id = 'made-up'", "session_token = 'made-up'",
        "account_key = 'made-up'", "sas_key = 'made-up'", "service_account_key = 'made-up'", "password = 'made-up'",
        "encryption = { key = 'made-up' }",
    ],
)  # fmt: skip
def test_secrets_are_refused(tmp_path: Path, line: str) -> None:
    """A secret in the file is refused with what to do instead, and not shown again."""
    with pytest.raises(BadRequest, match="secrets don't belong in this file") as caught:
        read(tmp_path, f"[regions.a]\nstore = 's3://bucket'\n{line}")
    assert "made-up" not in caught.value.message


@pytest.mark.parametrize(
    "lines",
    [
        "store = 's3://key:made-up@bucket'", "store = 's3://bucket?sig=made-up'",
        "store = 's3://bucket'\nendpoint = 'https://key:made-up@host'",
        "store = 's3://bucket'\ncredentials = 'made-up'",
    ],
)  # fmt: skip
def test_secrets_where_something_else_belongs_are_not_shown(tmp_path: Path, lines: str) -> None:
    """A value that may be a secret is refused without being repeated."""
    with pytest.raises(BadRequest) as caught:
        read(tmp_path, f"[regions.a]\n{lines}")
    assert "made-up" not in caught.value.message


def test_neighbours_may_share_a_bucket(tmp_path: Path) -> None:
    """Prefixes that only begin alike, and the same bucket elsewhere, are places of their own."""
    served = read(
        tmp_path,
        "[regions.a]\nstore = 's3://x/one'\n[regions.b]\nstore = 's3://x/one2'\n"
        "[regions.c]\nstore = 's3://x/one'\nendpoint = 'https://elsewhere'\n[regions.d]\nstore = 'gs://x/one'\n",
    )
    assert list(served.regions) == ["a", "b", "c", "d"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A file that can't be read is named."""
    with pytest.raises(BadRequest, match=r"nothing.toml can't be read: No such file"):
        load_regions_file(tmp_path / "nothing.toml")


def test_without_a_file_each_region_has_a_folder(tmp_path: Path) -> None:
    """The regions that were asked for, each below the data, without limits."""
    served = served_regions(Settings(data=tmp_path, regions=("ams3", "nyc3")))

    assert {slug: one.store_url for slug, one in served.regions.items()} == {
        slug: (tmp_path / "regions" / slug).as_uri() for slug in ("nyc3", "ams3")
    }
    assert {one.limits for one in served.regions.values()} == {Limits()}
    assert served.pairs == {}


def test_the_settings_name_the_file(tmp_path: Path) -> None:
    """A service that is set up with a file serves its regions and no others."""
    path = tmp_path / "regions.toml"
    path.write_text("[regions.cellar]\nstore = '/srv/cellar'\n", encoding="utf-8")

    assert list(served_regions(Settings(data=tmp_path, regions_file=path)).regions) == ["cellar"]
