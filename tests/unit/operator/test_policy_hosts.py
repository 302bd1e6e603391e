"""Hosts that jobs name: in one spelling, dangerous or not, in a list or not."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.policy_hosts import Host, danger, host_of_entry, host_of_url, is_listed

LOOPBACK, LINK_LOCAL, METADATA = "a loopback address", "a link-local address", "a cloud's metadata service"


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://minio.minio.svc:9000", Host("minio.minio.svc", 9000)),
        ("https://S3.Example.COM./prefix", Host("s3.example.com", 443)),
        ("http://my_minio", Host("my_minio", 80)),
        ("http://[::FFFF:7f00:1]:9000/x", Host("::ffff:7f00:1", 9000)),
        ("http://0x7f000001:9000", Host("127.0.0.1", 9000)),
    ],
)
def test_the_host_of_a_url(url: str, host: Host) -> None:
    assert host_of_url(url) == host


@pytest.mark.parametrize(
    "url",
    [
        "http://minio@169.254.169.254/",
        "http://a.com\\@b.com",
        "http://a.com?@b.com",
        "http://a.com#b",
        "ftp://a.com",
        "http://",
        "http://a.com:x",
        "http://[::1",
        "http://a b",
        "http://ex\u00e4mple.com",
        "http://a.com:123456",
    ],
)
def test_what_is_no_plain_host(url: str) -> None:
    with pytest.raises(ValueError, match="no plain host and port"):
        host_of_url(url)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("127.0.0.1", LOOPBACK),
        ("127.8.9.1", LOOPBACK),
        ("127.1", LOOPBACK),
        ("0177.0.0.1", LOOPBACK),
        ("2130706433", LOOPBACK),
        ("0x7F.0.0.0x1", LOOPBACK),
        ("0.0.0.0", LOOPBACK),
        ("localhost", LOOPBACK),
        ("LOCALHOST.", LOOPBACK),
        ("a.localhost", LOOPBACK),
        ("[::1]", LOOPBACK),
        ("[::]", LOOPBACK),
        ("[::ffff:127.0.0.1]", LOOPBACK),
        ("169.254.1.1", LINK_LOCAL),
        ("169.254.169.254", LINK_LOCAL),
        ("0xA9FEA9FE", LINK_LOCAL),
        ("[::ffff:169.254.169.254]", LINK_LOCAL),
        ("[fe80::1]", LINK_LOCAL),
        ("[fd00:ec2::254]", METADATA),
        ("100.100.100.200", METADATA),
        ("168.63.129.16", METADATA),
        ("metadata.google.internal", METADATA),
        ("Metadata.Google.Internal.", METADATA),
        ("minio.minio.svc", None),
        ("10.0.0.7", None),
        ("[fd00::7]", None),
        ("s3.eu-central-1.amazonaws.com", None),
        ("localhost.example.com", None),
    ],
)
def test_where_no_job_should_reach(name: str, what: str | None) -> None:
    assert danger(host_of_url(f"http://{name}/")) == what


@given(st.ip_addresses(network="127.0.0.0/8") | st.ip_addresses(network="169.254.0.0/16"), st.booleans())
def test_no_spelling_of_an_address_is_overlooked(address: ipaddress.IPv4Address, decimal: bool) -> None:
    spelt = str(int(address)) if decimal else f"[::ffff:{address}]"
    assert danger(host_of_url(f"http://{spelt}:1/"))
    assert danger(host_of_url(f"http://{address}/"))


@pytest.mark.parametrize(
    ("entry", "url", "listed"),
    [
        ("minio.minio.svc", "http://minio.minio.svc:9000", True),
        ("minio.minio.svc:9000", "http://minio.minio.svc:9000", True),
        ("minio.minio.svc:9000", "http://minio.minio.svc:9001", False),
        ("s3.example.com:443", "https://s3.example.com", True),
        ("Minio.minio.svc", "http://MINIO.minio.svc.", True),
        ("minio.minio.svc", "http://minio.minio.svc.evil.com", False),
        ("minio.minio.svc", "http://xminio.minio.svc", False),
        ("*.example.com", "https://s3.example.com", True),
        ("*.example.com", "https://a.b.example.com", True),
        ("*.example.com", "https://example.com", False),
        ("*.example.com", "https://badexample.com", False),
        ("[fd00::1]:9000", "http://[fd00:0::1]:9000", True),
        ("10.0.0.7", "http://10.0.7", True),
        ("*.0.0.1", "http://10.0.0.1", False),
    ],
)
def test_what_a_list_holds(entry: str, url: str, listed: bool) -> None:
    assert is_listed(host_of_url(url), [entry]) is listed


def test_a_wildcard_is_no_letter_by_letter() -> None:
    host = host_of_url("http://a.localhost:9000")
    assert is_listed(host, ["*.localhost"])
    assert not is_listed(host, ["*.localhost"], literally=True)
    assert is_listed(host, ["a.localhost"], literally=True)


@pytest.mark.parametrize("entry", ["a.b", "a.b:80", "[fd00::1]", "[fd00::1]:80", "127.0.0.1:9000", "*.a.b"])
def test_an_entry_is_shown_as_it_is_written(entry: str) -> None:
    assert str(host_of_entry(entry)) == entry
