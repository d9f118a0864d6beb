"""Who may trade, and the keys by which they are known.

A key is 256 random bits, shown once. Only its SHA-256 is kept: for a random key of that length a
slow hash adds nothing. Looking a hash up in a table tells an attacker's clock nothing about any
key, because nobody can choose how the hash of a guess begins.
"""

import hashlib
import hmac
import secrets

from common.errors import Unauthorized
from common.model import Broker

KEY_BYTES = 32


def new_api_key() -> str:
    """A key for one new broker."""
    return secrets.token_urlsafe(KEY_BYTES)


def hash_key(api_key: str) -> bytes:
    """What is kept of a key. A header may hold bytes that are no text; they hash as they are."""
    return hashlib.sha256(api_key.encode(errors="surrogateescape")).digest()


def same_key(key_hash: bytes, api_key: str) -> bool:
    """Whether a key has this hash, in a time that does not depend on the answer."""
    return hmac.compare_digest(key_hash, hash_key(api_key))


class Brokers:
    """All brokers, by id and by the hash of their key."""

    def __init__(self) -> None:
        self.by_id: dict[int, Broker] = {}
        # Of those only who want to be told.
        self.webhook_urls: dict[int, str] = {}
        self._by_key: dict[bytes, Broker] = {}

    def add(self, broker: Broker) -> None:
        self.by_id[broker.id] = broker
        self._by_key[broker.key_hash] = broker
        if broker.webhook_url is not None:
            self.webhook_urls[broker.id] = broker.webhook_url

    def of(self, key_hash: bytes) -> Broker:
        """Who holds the key. Raises Unauthorized when nobody does."""
        broker = self._by_key.get(key_hash)
        if broker is None:
            raise unknown_key()
        return broker

    def clear(self) -> None:
        self.by_id.clear()
        self.webhook_urls.clear()
        self._by_key.clear()


def unknown_key() -> Unauthorized:
    """The error for a key that nobody holds."""
    return Unauthorized("unknown API key; expected the one that POST /register gave")
