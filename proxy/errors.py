"""The few errors of ours, and what a client or an operator sees of each.

`MeterError` is a fault the operator can do something about: one line, no traceback, exit code beside it.
`RelayError` is an answer the proxy gives a client by itself, in DeepSeek's error shape. Nothing else leaves the inside.
"""

import msgspec


class MeterError(Exception):
    """Something the operator has to know, in one line that says what happened, where, and what to do."""

    exit_code = 1


class SettingsError(MeterError):
    """A setting that cannot be used. Says the file or variable, the key, and what was expected there."""

    exit_code = 2


class CatalogError(MeterError):
    """A catalog of versions or prices that cannot be used. Says the file, the row and the reason."""

    exit_code = 2


class DataDirInUseError(MeterError):
    """Another supervisor runs on this data dir."""


class StoreUnavailableError(MeterError):
    """Redis does not answer, refuses us, or is not one we can use."""


class AuditUnwritableError(MeterError):
    """A change that could not be noted in the audit trail. Says which, and why."""


class RelayError(Exception):
    """An exchange the proxy has to answer by itself.

    `status` is what the client sees, `retry_after_s` becomes `Retry-After`; `kind` and `code` fill `type` and `code` of DeepSeek's error shape
    (api-docs.deepseek.com, quick_start/error_codes).
    """

    status = 500
    kind = "internal_error"
    code = "internal_error"
    retry_after_s = 0
    """When it is worth another try; 0 where nobody can tell."""

    def body(self) -> bytes:
        """The error as a client of DeepSeek expects it: `{"error":{"message","type","param","code"}}`."""
        error = {"message": str(self), "type": self.kind, "param": None, "code": self.code}
        return msgspec.json.encode({"error": error})


class BadRequestError(RelayError):
    """A request that cannot be relayed: its target names another host, or its body is not framed properly."""

    status = 400
    kind = "invalid_request_error"
    code = "invalid_request_error"


class AmbiguousRequestError(BadRequestError):
    """A request that may be read in two ways, where what is allowed, or who pays, would depend on the reader."""

    code = "ambiguous_request"


class RequestTooLargeError(RelayError):
    """The request's body is larger than `[gateway] max_request_bytes`."""

    status = 413
    kind = "invalid_request_error"
    code = "request_too_large"

    @classmethod
    def beyond(cls, limit: int) -> "RequestTooLargeError":
        """For a body of more than `limit` bytes."""
        return cls(f"The request's body is larger than {limit} bytes, the limit of this proxy.")


class HeadTooLargeError(RelayError):
    """The request's head is larger than `[gateway] max_head_bytes`, or has more headers than `max_headers`."""

    status = 431
    kind = "invalid_request_error"
    code = "head_too_large"

    @classmethod
    def beyond(cls, limit: int) -> "HeadTooLargeError":
        """For a head of more than `limit` bytes."""
        return cls(f"The request's head is larger than {limit} bytes, the limit of this proxy.")


class RequestTimeoutError(RelayError):
    """The request's head or body did not come within `[gateway] head_timeout_seconds` or `body_timeout_seconds`."""

    status = 408
    kind = "invalid_request_error"
    code = "request_timeout"


class UnknownKeyError(RelayError):
    """Managed mode, and the client shows no key of ours, or one that opens nothing any more; `code` says which."""

    status = 401
    kind = "authentication_error"

    def __init__(self, message: str, code: str = "invalid_api_key") -> None:
        super().__init__(message)
        self.code = code


class NotAllowedError(RelayError):
    """Managed mode, and something that the client's key does not open; `code` says what."""

    status = 403
    kind = "permission_error"

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class LimitReachedError(RelayError):
    """Managed mode, and a limit of the client's key; `code` says which."""

    status = 429
    kind = "rate_limit_error"

    def __init__(self, message: str, code: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_s = retry_after_s


class KeysUnavailableError(RelayError):
    """Managed mode, Redis is away, and `[keys]` says that then nothing, or nothing so old, decides about keys."""

    status = 503
    kind = "internal_error"
    code = "keys_unavailable"
    retry_after_s = 2


class VersionMismatchError(RelayError):
    """The name asked for means another version than the client expects, and `[gateway] on_mismatch` says to refuse that."""

    status = 409
    kind = "invalid_request_error"
    code = "version_mismatch"


class BudgetUsedUpError(RelayError):
    """A budget has no room for what this exchange may cost. `budget` is its name."""

    status = 429
    kind = "rate_limit_error"
    code = "budget_used_up"
    budget = ""


class BudgetUnknownError(RelayError):
    """The store does not answer, and a budget says that then nothing passes."""

    status = 503
    kind = "internal_error"
    code = "budget_unknown"
    retry_after_s = 5


class NoBoundError(RelayError):
    """A budget holds the most an exchange may cost, and for this one there is no such number."""

    status = 400
    kind = "invalid_request_error"
    code = "no_cost_bound"


class JournalUnwritableError(RelayError):
    """The journal cannot be written, and `[journal] on_unwritable` says that then nothing is relayed."""

    status = 503
    kind = "internal_error"
    code = "journal_unwritable"


class UpstreamUnreachableError(RelayError):
    """No connection to the upstream, a failed TLS handshake, or one lost before the first byte of an answer."""

    status = 502
    kind = "upstream_error"
    code = "upstream_unreachable"


class UpstreamTimeoutError(RelayError):
    """The upstream did not connect or answer within the configured time."""

    status = 504
    kind = "upstream_error"
    code = "upstream_timeout"


class UpstreamBrokeError(Exception):
    """The upstream's body ended before its end. The client has its head already and sees the same break."""


class UpstreamStalledError(UpstreamBrokeError):
    """The upstream fell silent, or took longer than the whole exchange may, after its answer had begun."""
