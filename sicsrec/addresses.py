"""Addresses of servers, which may hold a user and password: asking there, and showing them."""

import base64
import http.client
import logging
import re
import urllib.error
import urllib.parse
import urllib.request

_OF_DATABASE = re.compile(r"\b((?:mssql|mysql|postgres(?:ql)?)(?:\+\w+)?:)//[^/:\s]*:[^@\s]*@")
"""User and password as SQLAlchemy reads them, to which all up to the first @ is the password."""

_CREDENTIALS = re.compile(
    r"//(?:[^/\s]+"
    # A slash belongs to a password where what stands before it can be no port.
    r"|[^/\s:@\[\"']+:(?!\d*[/?#\"'])[^@\s\"']+)@"
)


def without_passwords(text: str) -> str:
    """Return a text in which no address holds a user and password.

    Of an address that stands alone :func:`without_password` hides more kinds of passwords.

    Example:
        >>> without_passwords("no answer from http://alice:s3cret@mlflow:5000/health")
        'no answer from http://mlflow:5000/health'
        >>> without_passwords("postgresql://alice:1/2@host/db is away, http://host:1/@a is not")
        'postgresql://host/db is away, http://host:1/@a is not'
    """
    return _CREDENTIALS.sub("//", _OF_DATABASE.sub(r"\1//", text))


def without_password(url: str) -> str:
    """Return one address without its user and password, whatever signs the password holds.

    One that is no database's keeps an @ behind ``name:digits/``: that is a host and its port.

    Example:
        >>> without_password("sftp://alice:s3/cr@et@host/folder")
        'sftp://host/folder'
        >>> without_password("postgresql://alice:1/2@host/db")
        'postgresql://host/db'
    """
    url = _OF_DATABASE.sub(r"\1//", url)
    # A slash in a password ends what counts as the host.
    reach = "[^/?#]*" if has_port(url) else ".*"
    return re.sub(f"//{reach}@", "//", url, count=1)


class WithoutPasswords(logging.Formatter):
    """Writes log records as another formatter does, in no address a user and password.

    Errors of servers' clients name the address that was asked, so tracebacks hold it too.
    """

    def __init__(self, inner: logging.Formatter | None = None) -> None:
        super().__init__()
        self._inner = inner or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as text, with the traceback that belongs to it."""
        return without_passwords(self._inner.format(record))


def has_port(url: str) -> bool:
    """Return whether what stands where an address has its port is one, or nothing."""
    try:
        _ = urllib.parse.urlsplit(url).port
    except ValueError:
        return False
    return True


def ask(url: str, timeout_seconds: float) -> int:
    """Return the HTTP status with which a server answers.

    Args:
        url: where to ask; user and password in it are sent as HTTP wants them.
        timeout_seconds: how long the answer may take.

    Raises:
        ConnectionError: if nothing there speaks HTTP, or this is no address; says why, without the
            password.
    """
    try:
        with urllib.request.urlopen(_request(url), timeout=timeout_seconds) as reply:  # noqa: S310
            return int(reply.status)
    except urllib.error.HTTPError as err:
        return err.code
    except (OSError, ValueError, http.client.HTTPException) as err:
        why = getattr(err, "reason", None) or err
        # Without its cause, which may repeat the address.
        raise ConnectionError(without_passwords(str(why)).strip() or type(err).__name__) from None


def _request(url: str) -> urllib.request.Request:
    """Return a request whose address urllib reads; it takes a password for a part of the host."""
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port
    except ValueError:
        # Says what it found where a host or port should be, which may be of a password.
        raise ValueError("its host or port cannot be read") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("not an address that begins with http:// or https://")
    credentials, _, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(parts._replace(netloc=host).geturl())  # noqa: S310
    if credentials:
        packed = base64.b64encode(urllib.parse.unquote(credentials).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {packed}")
    return request
