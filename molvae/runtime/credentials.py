"""Addresses without their secrets: what may be written to a file, a log or a terminal. Standard library only.

Any part of an address but scheme, host and path may be a secret: the user, the password, the key of a signature.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, unquote

from molvae.errors import DataError

HIDDEN = "***"
REAL_ADDRESSES = "MOLVAE_ADDRESSES"  # environment variable: JSON, address without its secrets -> whole address
MIN_SECRET = 4  # characters; shorter parts of an address are not looked for in a text
# Parameters that renew a permission and do not choose the content, by the parameter that marks such a signature.
SIGNATURES = {
    "sig": {"sig", "se", "st", "sp", "spr", "sip", "sv", "skoid", "sktid", "skt", "ske", "sks", "skv"},
    "signature": {"signature", "expires", "policy", "key-pair-id", "awsaccesskeyid", "googleaccessid"},
    "x-amz-signature": {
        *("x-amz-signature", "x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-expires"),
        *("x-amz-signedheaders", "x-amz-security-token"),
    },
    "x-goog-signature": {
        *("x-goog-signature", "x-goog-algorithm", "x-goog-credential", "x-goog-date", "x-goog-expires"),
        "x-goog-signedheaders",
    },
}
ROUNDS = 20_000  # of the hash of a query, which may be short enough to be guessed
_ADDRESS = re.compile(r"\s*([A-Za-z][\w+.-]*)://(.*)", re.DOTALL)
_ADDRESS_IN_TEXT = re.compile(r"""[A-Za-z][\w+.-]*://[^\s'"<>`]+""")
_HOST = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(:\d*)?")
_WITHOUT_QUERY = re.compile(rf"[?#;]{re.escape(HIDDEN)}[0-9a-f]*$")


def is_web_address(text: str) -> bool:
    """Tell whether a text is an http or https address.

    >>> is_web_address("HTTPS://example.org/molecules.csv")
    True
    """
    return re.match(r"https?://", text, re.IGNORECASE) is not None


def hide_credentials(address: str) -> str:
    """Remove user, password, query and fragment of an address. A path and a SQLite address stay as they are.

    Where it is not clear what is secret, as with an unquoted `/` in a password, only the scheme is left.

    >>> hide_credentials("https://me:password@example.org/molecules.csv?signature=secret")
    'https://example.org/molecules.csv?***'
    """
    if not (match := _ADDRESS.fullmatch(address)):
        return HIDDEN if re.match(r"[\w+.-]+:.*@", address, re.DOTALL) else address  # user:password@host
    scheme, rest = match.groups()
    if scheme.lower() == "sqlite" and rest.startswith("/"):
        return address
    authority, path, tail = _split(rest)
    user, _, host = authority.rpartition("@")
    is_host = _HOST.fullmatch(host) is not None
    may_be_user = bool(user) or ":" in host or "." not in host
    if not is_host or ("@" in path + tail and may_be_user and bool(authority)):
        return f"{scheme}://{HIDDEN}"
    if tail and not _WITHOUT_QUERY.fullmatch(tail):
        tail = tail[0] + HIDDEN
    return f"{scheme}://{host}{path}{tail}"


def hide_credentials_in(text: str, *addresses: str | None) -> str:
    """Remove what `hide_credentials` removes from every address in a text, and the secrets of some from all of it.

    Libraries put addresses, or parts of them, into the texts of their errors.

    Args:
        text: of an error, say.
        addresses: whose secrets the text may hold by themselves.
    """
    for address in filter(None, addresses):
        text = text.replace(address, hide_credentials(address))
    text = _ADDRESS_IN_TEXT.sub(lambda match: hide_credentials(match[0]), text)
    for secret in sorted(_list_secrets(filter(None, addresses)), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def has_credentials(address: str) -> bool:
    """Tell whether an address holds what `hide_credentials` removes."""
    return hide_credentials(address) != address


def identify_address(address: str) -> str:
    """Remove the secrets of a web address, but keep apart addresses that may lead to different content.

    The part of the query that is no signature of a known kind becomes a digest of it: a renewed signature, user or
    password changes nothing, another `version=` does.

    Args:
        address: a path, or a web address with or without secrets.
    """
    public = hide_credentials(address)
    match = _ADDRESS.fullmatch(address)
    if not is_web_address(address) or public == address or match is None:
        return address
    query = _split(match[2])[2].partition("#")[0].lstrip("?;")
    pairs = [(name.lower(), name, value) for name, value in parse_qsl(query, keep_blank_values=True)]
    names = {name for name, *_ in pairs}
    renewed = {name for mark, group in SIGNATURES.items() if mark in names for name in group}
    content = [pair[1:] for pair in pairs if pair[0] not in renewed]
    if not content:
        return public
    digest = hashlib.pbkdf2_hmac("sha256", json.dumps(content).encode(), public.encode(), ROUNDS)
    return f"{public}{digest.hex()[:8]}"


def export_addresses(addresses: Iterable[str]) -> None:
    """Put addresses with secrets into the environment of the processes that are started from here on."""
    known = {identify_address(address): address for address in addresses if has_credentials(address)}
    if known:
        os.environ[REAL_ADDRESSES] = json.dumps(_read_addresses() | known)


def find_address(address: str) -> str:
    """Find the whole address of one that `identify_address` returned, in the environment; another is returned as it is.

    Raises:
        DataError: the environment does not have it.
    """
    real = _read_addresses().get(address, address)
    if is_web_address(real) and _WITHOUT_QUERY.search(real):
        raise DataError(f"{address}: this address lacks its secret part. Give the whole one, or set {REAL_ADDRESSES}.")
    return real


def _read_addresses() -> dict[str, str]:
    try:
        return dict(json.loads(os.environ.get(REAL_ADDRESSES) or "{}"))
    except (ValueError, TypeError):
        raise DataError(f"{REAL_ADDRESSES} is no JSON object of addresses.") from None


def _split(rest: str) -> tuple[str, str, str]:
    """Split what follows :// into user and host, path, and the query, parameters or fragment with their mark."""
    match = re.fullmatch(r"([^/?#;\\]*)([^?#;]*)(.*)", rest, re.DOTALL)
    assert match is not None  # every text matches
    return match[1], match[2], match[3]


def _list_secrets(addresses: Iterable[str]) -> set[str]:
    """List the secret parts of addresses, as they stand there and decoded."""
    secrets: set[str] = set()
    for address in addresses:
        if not has_credentials(address):
            continue
        match = _ADDRESS.fullmatch(address)
        rest = match[2] if match else address
        authority, _, tail = _split(rest)
        user, _, _ = authority.rpartition("@")
        name, _, password = user.partition(":")
        parts = {password or name, tail, *re.split(r"[?#;&=]", tail)}
        if hide_credentials(address).endswith(f"://{HIDDEN}") or match is None:
            parts |= set(re.split(r"[/?#;&=:@]", rest))
        secrets |= parts | {unquote(part) for part in parts}
    return {secret for secret in secrets if len(secret) >= MIN_SECRET and HIDDEN not in secret}
