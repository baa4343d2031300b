"""The algorithms of TCP-AO: message authentication codes and key derivation, by Linux's names (RFC 5926).

RFC 5926 section 3.1.1: a traffic key is the MAC, under the master key, of

    counter 1 | "TCP-AO" | addresses, ports, initial sequence numbers | length of the output in bits

and section 3.2: a segment's code is the first bytes of the MAC under the traffic key. Both use one algorithm, HMAC or
AES-CMAC. HMAC is the standard library's; AES-CMAC needs the package `cryptography` (the extra `usernet[ao]`), which is
imported when the first such key is set. Where it is missing, setting one fails with ENOENT, as with a kernel built
without CMAC.
"""

from __future__ import annotations

import errno
from typing import Final, final

from usernet.core.errors import error

HASHES: Final = {
    "md5": 16, "sha1": 20, "sha224": 28, "sha256": 32, "sha384": 48, "sha512": 64, "sha3-224": 28, "sha3-256": 32,
    "sha3-384": 48, "sha3-512": 64,
}  # fmt: skip
"""Hash functions by Linux's names, with the size of their digests in bytes."""


class Algorithm:
    """One algorithm. name: as TCP_AO_GET_KEYS tells it; digest_size: bytes of a traffic key and of a whole code."""

    name: str
    digest_size: int

    def master_key(self, key: bytes) -> bytes:
        """The key that traffic keys are derived with, from the one that was set. Raises OSError EINVAL."""
        return key

    def mac(self, key: bytes, message: bytes) -> bytes:
        """The whole code of `message` under `key`."""
        raise NotImplementedError(f"{type(self).__name__} must define mac()")


@final
class Hmac(Algorithm):
    """HMAC (RFC 2104) over one of `HASHES`."""

    def __init__(self, hash_name: str) -> None:
        self.name = f"hmac({hash_name})"
        self.digest_size = HASHES[hash_name]
        self._digest = hash_name.replace("-", "_")

    def mac(self, key: bytes, message: bytes) -> bytes:
        import hmac

        return hmac.digest(key, message, self._digest)


@final
class Cmac(Algorithm):
    """AES-CMAC (RFC 4493). With `kdf`, keys of any length are taken: one that isn't 128 bits long is made so by
    AES-CMAC itself, under a key of zeros (RFC 5926 section 3.1.1.2; RFC 4615)."""

    name = "cmac(aes)"
    digest_size = 16

    def __init__(self, kdf: bool) -> None:
        try:
            from cryptography.hazmat.primitives.ciphers.algorithms import AES
            from cryptography.hazmat.primitives.cmac import CMAC
        except ImportError:
            raise error(errno.ENOENT, "AES-CMAC needs the package cryptography: usernet[ao]") from None
        self._aes = AES
        self._cmac = CMAC
        self._kdf = kdf

    def master_key(self, key: bytes) -> bytes:
        if self._kdf and len(key) != 16:
            return self.mac(bytes(16), key)
        if len(key) not in (16, 24, 32):
            raise error(errno.EINVAL, f"cmac(aes): expected a key of 16, 24 or 32 bytes, not {len(key)}")
        return key

    def mac(self, key: bytes, message: bytes) -> bytes:
        code = self._cmac(self._aes(key))
        code.update(message)
        return code.finalize()


def find(name: str) -> Algorithm:
    """An algorithm by Linux's name: hmac(sha1), cmac(aes128), hmac(sha256), … (Linux: crypto_alloc_ahash).

    Raises OSError: ENOENT for one that isn't known, ENOSYS for a hash without a key.
    """
    if name == "cmac(aes128)":
        return Cmac(True)
    if name == "cmac(aes)":
        return Cmac(False)
    if name.startswith("hmac(") and name[5:-1] in HASHES and name.endswith(")"):
        return Hmac(name[5:-1])
    if name in HASHES:
        raise error(errno.ENOSYS, f"{name} has no key")
    raise error(errno.ENOENT, f"no algorithm named {name!r}")


def kdf_context(saddr: bytes, daddr: bytes, sport: int, dport: int, sisn: int, disn: int) -> bytes:
    """What a traffic key is made of (RFC 5925 section 5.2), from the sender's point of view."""
    return saddr + daddr + ((sport << 80) | (dport << 64) | (sisn << 32) | disn).to_bytes(12, "big")


def traffic_key(algorithm: Algorithm, master: bytes, context: bytes) -> bytes:
    """RFC 5926 section 3.1.1: one round is enough, for a traffic key is as long as the MAC."""
    bits = algorithm.digest_size * 8
    return algorithm.mac(master, b"\1TCP-AO" + context + bits.to_bytes(2, "big"))
