"""Bearer tokens, and the tenants they belong to. Tokens are kept as hashes alone, and are in no message."""

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Sequence

from driftlm.core.errors import DriftError
from driftlm.homes.tenants import NAME

SHORTEST = 16  # characters of a token
TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, section 2.1


class Tokens:
    """Which tenant a token belongs to; a tenant may have several.

    Args:
        lines: `TENANT TOKEN` each; empty ones and those that begin with # do not count.
        where: they come from, for messages.

    Raises:
        DriftError: for a line that is none, a token that is short or belongs to two tenants, or when there is no token.

    Example:
        >>> tokens = Tokens(["ada 0123456789abcdef"], "tokens.txt")
        >>> tokens.tenant("0123456789abcdef"), tokens.tenant("another")
        ('ada', None)
    """

    def __init__(self, lines: Sequence[str], where: str) -> None:
        self.tenants: dict[bytes, str] = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            place, words = f"{where}, line {number}", line.split()
            if len(words) != 2 or not NAME.fullmatch(words[0]) or not TOKEN.fullmatch(words[1]):
                raise DriftError(
                    f"{place}: expected a tenant's name (letters, digits, - and _), a space and a token (letters, "
                    f"digits and . _ ~ + / -); correct the line."
                )
            if len(words[1]) < SHORTEST:
                raise DriftError(f"{place}: the token is shorter than {SHORTEST} characters; give a longer one.")
            if self.tenants.setdefault(digest(words[1]), words[0]) != words[0]:
                raise DriftError(f"{place}: the token is another tenant's already; give every tenant one of its own.")
        if not self.tenants:
            raise DriftError(f"{where} holds no token; write a line `TENANT TOKEN` for every tenant.")

    def tenant(self, token: str) -> str | None:
        """Return whose token it is. Every token is compared, in a time that does not depend on what they have in
        common.
        """
        given, found = digest(token), None
        for held, tenant in self.tenants.items():
            if hmac.compare_digest(held, given):
                found = tenant
        return found


def digest(token: str) -> bytes:
    """Return the SHA-256 of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def bearer(header: str) -> str:
    """Return the token of an `Authorization` header; empty where it is of another kind.

    Example:
        >>> bearer("Bearer abc"), bearer("Basic abc")
        ('abc', '')
    """
    kind, _, token = header.partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach a host.

    Example:
        >>> [is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "example.org")]
        [True, True, True, False, False]
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
