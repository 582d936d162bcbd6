"""Signed image URLs: `?expires&signature`, so that `<img>` works where keys are on and no key stands in a URL."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from redis.asyncio import Redis

from contract.redis_keys import SECRET_KEY
from core.clock import CLOCK
from core.errors import Forbidden

# URLs made within one period are equal, so that browsers find what they cached; each is good for 1 to 2 hours.
PERIOD_S = 3600


@dataclass(frozen=True, slots=True)
class Signer:
    """HMAC-SHA256 over the image's id and the second at which the URL expires."""

    secret: str

    def query(self, image_id: str) -> str:
        """Make what stands behind the `?` of the image's URL."""
        expires = (int(CLOCK.unix()) // PERIOD_S + 2) * PERIOD_S
        return f"expires={expires}&signature={self._sign(image_id, str(expires))}"

    def url(self, path: str) -> str:
        """Make the URL of `/v1/images/{id}` with its signature."""
        return f"{path}?{self.query(path.rpartition('/')[2])}"

    def check(self, image_id: str, expires: str, signature: str) -> None:
        """Check the signature of an image's URL.

        Raises:
            Forbidden: it isn't this image's, or has expired.
        """
        if not hmac.compare_digest(self._sign(image_id, expires).encode(), signature.encode("utf-8", "replace")):
            raise Forbidden("the URL's signature isn't this image's", field="signature", value=signature)
        if int(expires) < CLOCK.unix():
            detail = "the URL has expired; read the job again for a new one"
            raise Forbidden(detail, field="expires", value=expires, bound=f"{int(CLOCK.unix())} or later")

    def _sign(self, image_id: str, expires: str) -> str:
        text = f"{image_id}\n{expires}".encode("utf-8", "replace")
        return hmac.new(bytes.fromhex(self.secret), text, hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class ImageUrls:
    """How a caller is told where images are: below the public URL's path, signed where keys are on."""

    prefix: str = ""
    signer: Signer | None = None

    def of(self, path: str) -> str:
        """Make the URL of `/v1/images/{id}`."""
        return self.prefix + (path if self.signer is None else self.signer.url(path))


PLAIN = ImageUrls()


async def read_signer(redis: Redis) -> Signer:
    """Return the signer with the secret that all gateways share."""
    secret = await redis.get(SECRET_KEY)
    if secret is None:
        await redis.set(SECRET_KEY, secrets.token_hex(32), nx=True)
        secret = await redis.get(SECRET_KEY)
    assert secret is not None
    return Signer(str(secret))
