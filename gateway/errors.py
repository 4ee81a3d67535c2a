"""Everything that can go wrong, by whose fault it is. Knows neither HTTP nor gRPC.

    HemaVisionError
    |-- RequestError                what the client sent cannot be answered
    |   |-- MalformedRequest        broken as HTTP, as a form, or in its encoding
    |   |-- NotFound                nothing is at this address
    |   |-- NotAcceptable           no form in which this is answered is one that the client takes
    |   |-- InvalidOption           an option that does not exist, or a value out of range
    |   |-- MissingPhotograph       no body, no part named `file`, or an empty one
    |   |-- UnsupportedMedia        not a picture, or not in a format that is read here
    |   |-- UnreadablePhotograph    a picture that is damaged, truncated or too small to hold a cell
    |   |-- PhotographTooLarge      more bytes or more pixels than are accepted
    |   |-- TooManyParts            more photographs or fields in one form than are accepted
    |   |-- SeriesTooLarge          more photographs or bytes in one series than are accepted
    |   |-- UnreadableZip           a zip that is damaged, or built like none
    |   |-- InvalidCells            what is said of the cells of a series cannot be used
    |   |-- NoCells                 no photograph of a series could be read
    |   |-- UploadTooSlow           the body did not arrive in time
    |   |-- TooManyAtOnce           this client has as many photographs here as one may have
    |   |-- KeyRequired             no API key, or none that is known here
    |   `-- RateExceeded            the key was used more often than it may be
    |-- ServiceError                this service cannot answer now
    |   |-- Overloaded              too many requests at once: come back
    |   |-- NoRoom                  no disk to keep a large zip on while it is read
    |   |-- Stopping                this process is about to end: another will answer
    |   |-- ModelUnavailable        no model server, no model in it, or no answer in time
    |   `-- ModelMisbehaved         the model server's answer breaks the contract
    `-- SettingsError               the service was started with settings that make no sense

Every message is a sentence that the person who can mend it can act on.
"""

from __future__ import annotations


class HemaVisionError(Exception):
    """Base of all errors of the gateway.

    ``retry_after`` is in how many seconds the same may work; None: it will not by itself.
    """

    retry_after: float | None = None

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        if retry_after is not None:
            self.retry_after = retry_after


class RequestError(HemaVisionError):
    """What the client sent cannot be answered."""


class MalformedRequest(RequestError):
    """Broken as HTTP, as a form, or in its encoding."""


class NotFound(RequestError):
    """Nothing is at this address."""


class NotAcceptable(RequestError):
    """No form in which this is answered is one that the client takes."""


class InvalidOption(RequestError):
    """An option that does not exist, or a value out of range."""


class MissingPhotograph(RequestError):
    """No body, no part named ``file``, or an empty one."""


class UnsupportedMedia(RequestError):
    """Not a picture, or not in a format that is read here."""


class UnreadablePhotograph(RequestError):
    """A picture that is damaged, truncated or too small to hold a cell."""


class PhotographTooLarge(RequestError):
    """More bytes or more pixels than are accepted."""


class TooManyParts(RequestError):
    """More photographs or fields in one form than are accepted."""


class SeriesTooLarge(RequestError):
    """More photographs or bytes in one series than are accepted."""


class UnreadableZip(RequestError):
    """A zip that is damaged, or built like none."""


class InvalidCells(RequestError):
    """What is said of the cells of a series cannot be used."""


class NoCells(RequestError):
    """No photograph of a series could be read."""


class UploadTooSlow(RequestError):
    """The body did not arrive in time."""


class TooManyAtOnce(RequestError):
    """This client has as many photographs here as one may have."""


class KeyRequired(RequestError):
    """No API key, or none that is known here."""


class RateExceeded(RequestError):
    """The key was used more often than it may be."""


class ServiceError(HemaVisionError):
    """This service cannot answer now.

    ``short_of_time``: before a later deadline it might have.
    """

    def __init__(
        self, message: str, retry_after: float | None = None, *, short_of_time: bool = False
    ) -> None:
        super().__init__(message, retry_after)
        self.short_of_time = short_of_time


class Overloaded(ServiceError):
    """Too many requests at once."""

    retry_after = 1.0


class NoRoom(ServiceError):
    """No disk to keep a large zip on while it is read."""


class Stopping(ServiceError):
    """This process is about to end."""

    retry_after = 1.0


class ModelUnavailable(ServiceError):
    """No model server, no model in it, or no answer in time."""

    retry_after = 1.0


class ModelMisbehaved(ServiceError):
    """The model server's answer breaks the contract."""


class SettingsError(HemaVisionError):
    """The service was started with settings that make no sense."""
