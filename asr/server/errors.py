"""Errors as clients of OpenAI's API read them: `{"error": {…}}`, whatever it was."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from asr.errors import AsrError, AudioError, one_line

_TYPES = {408: "timeout_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """What a client is answered in place of a result.

    Args:
        status: of HTTP.
        message: what is wrong, and what to do.
        type: of OpenAI's; None for that of the status.
        param: the parameter that is wrong, if it is one.
        code: a word that programs can compare.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        type: str | None = None,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        usual = "invalid_request_error" if status < 500 else "server_error"
        self.status, self.message = status, one_line(message)
        self.type = type or _TYPES.get(status, usual)
        self.param, self.code, self.headers = param, code, dict(headers or {})

    def to_dict(self) -> dict[str, Any]:
        """Return what stands under `error`."""
        return {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }


class OverloadError(AsrError):
    """There is more to do than the server takes on; it may be asked again.

    Args:
        retry_after: seconds.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the server is busy (try again in {retry_after} s)")
        self.retry_after = retry_after


class WorkerError(AsrError):
    """A process of the server ended over this work, twice."""


def shutdown_error() -> ApiError:
    """Return what clients are answered, or sent, while the server shuts down."""
    return ApiError(
        503,
        "the server shuts down (connect again)",
        code="server_shutdown",
        headers={"Retry-After": "1"},
    )


def api_error(error: Exception) -> ApiError:
    """Return what a client is answered to an error that was raised."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, OverloadError):
        headers = {"Retry-After": str(error.retry_after)}
        return ApiError(429, str(error), code="server_busy", headers=headers)
    if isinstance(error, WorkerError):
        return ApiError(500, str(error), code="worker_failed")
    if isinstance(error, AsrError):
        param = "file" if isinstance(error, AudioError) else None
        return ApiError(400, str(error), param=param, code="invalid_value")
    return ApiError(500, "internal error (the server's log has more)")


def error_response(error: Exception) -> JSONResponse:
    """Return the answer to an error that was raised."""
    found = api_error(error)
    return JSONResponse({"error": found.to_dict()}, found.status, found.headers)


def add_error_handlers(app: FastAPI) -> None:
    """Have an application answer all errors in this form."""
    app.add_exception_handler(ApiError, _respond)
    app.add_exception_handler(AsrError, _respond)
    app.add_exception_handler(HTTPException, _respond_http)
    app.add_exception_handler(RequestValidationError, _respond_validation)
    app.add_exception_handler(Exception, _respond)


async def _respond(request: Request, error: Exception) -> JSONResponse:
    return error_response(error)


async def _respond_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    headers = dict(error.headers or {})
    code = "not_found" if error.status_code == 404 else None
    return error_response(
        ApiError(error.status_code, message, code=code, headers=headers)
    )


async def _respond_validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"][1:]) or None
    return error_response(
        ApiError(400, f"{param or 'request'}: {first['msg']}", param=param)
    )
