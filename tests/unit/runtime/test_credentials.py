"""Addresses without their secrets, alone and in the texts of errors."""

from __future__ import annotations

import json

import pytest

from molvae.errors import DataError
from molvae.runtime.credentials import (
    REAL_ADDRESSES,
    export_addresses,
    find_address,
    hide_credentials,
    hide_credentials_in,
    identify_address,
)

SIGNED = "https://bucket.example.org/molecules.csv?X-Amz-Signature={}&X-Amz-Date={}&versionId={}"


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("https://example.org/a.csv", "https://example.org/a.csv"),
        ("https://me:secret@example.org:80/a.csv?sig=secret#secret", "https://example.org:80/a.csv?***"),
        ("https://secret@example.org/a.csv", "https://example.org/a.csv"),
        ("https://example.org/a.csv#secret", "https://example.org/a.csv#***"),
        ("https://example.org/@scope/a.csv", "https://example.org/@scope/a.csv"),
        ("HTTP://me:secret@[::1]:80/a.csv", "HTTP://[::1]:80/a.csv"),
        ("postgresql://me:secret@host/db?password=secret", "postgresql://host/db?***"),
        ("postgresql:///db?password=secret@x", "postgresql:///db?***"),
        ("mssql+pyodbc://host/db;PWD=secret", "mssql+pyodbc://host/db;***"),
        ("s3://key:secret@bucket/a.csv", "s3://bucket/a.csv"),
        ("sqlite:////data/@home/a b.db", "sqlite:////data/@home/a b.db"),
        ("data/molecules@home.csv?", "data/molecules@home.csv?"),
        ("databricks", "databricks"),
    ],
)
def test_an_address_without_credentials_still_says_where_it_leads(address, public):
    assert hide_credentials(address) == public == hide_credentials(public)


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me:secret/x@host/db",
        "postgresql://me:x?secret@host/db",
        "postgresql://me:x@secret@host/db@secret",
        "postgresql://me@host:secret/db",
        "https://me:1/secret@host/a.csv",
        "https://secret/x@host/a.csv",
        "http://me:secret",
        "http://[secret",
        "me:secret@host:5000",
        " https://me:secret@host/a.csv",
    ],
)
def test_of_an_address_that_cannot_be_read_for_certain_no_secret_is_left(address):
    assert "secret" not in hide_credentials(address)


def test_errors_of_libraries_lose_the_address_and_its_parts():
    address = "http://me:pass%2Fword@127.0.0.1:9/x?token=abcdef"
    text = f"API request to {address}/api failed: url /x?token=abcdef/api, basic auth pass/word, pass%2Fword"
    cleaned = hide_credentials_in(text, address)
    assert not [secret for secret in ("abcdef", "pass/word", "pass%2Fword") if secret in cleaned]
    assert "http://127.0.0.1:9/x?***" in cleaned and cleaned.startswith("API request to ")
    assert (
        hide_credentials_in("cannot open 'https://me:secret@h.org/a.csv?b'") == "cannot open 'https://h.org/a.csv?***'"
    )


def test_a_renewed_signature_names_the_same_content_and_another_version_does_not():
    same = {identify_address(SIGNED.format(*parts)) for parts in (("aaaa", "1", "7"), ("bbbb", "2", "7"))}
    assert len(same) == 1 and not same & {identify_address(SIGNED.format("aaaa", "1", "8"))}
    azure = "https://x.org/a.csv?sv=1&se={}&sig={}"
    assert identify_address(azure.format(1, "a")) == identify_address(azure.format(2, "b")) == "https://x.org/a.csv?***"
    assert identify_address("https://x.org/a.csv?se=1") != identify_address("https://x.org/a.csv?se=2"), "no signature"
    assert identify_address("https://a:b@x.org/a.csv") == identify_address("https://x.org/a.csv")
    (public,) = same
    assert identify_address(public) == hide_credentials(public) == public


def test_the_environment_has_the_whole_address_of_one_without_secrets(monkeypatch):
    address = SIGNED.format("secret", "1", "7")
    monkeypatch.setenv(REAL_ADDRESSES, json.dumps({"https://other.org/a.csv?***": "https://other.org/a.csv?b"}))
    export_addresses([address, "moses", "data/a.csv"])
    assert find_address(identify_address(address)) == find_address(address) == address
    assert find_address("https://other.org/a.csv?***") == "https://other.org/a.csv?b"
    assert find_address("data/a.csv") == "data/a.csv"
    monkeypatch.delenv(REAL_ADDRESSES)
    with pytest.raises(DataError, match=r"a\.csv\?\*\*\*: this address lacks its secret part.*MOLVAE_ADDRESSES"):
        find_address("https://other.org/a.csv?***")
    monkeypatch.setenv(REAL_ADDRESSES, "secret")
    with pytest.raises(DataError, match="MOLVAE_ADDRESSES is no JSON"):
        find_address("https://other.org/a.csv?***")
