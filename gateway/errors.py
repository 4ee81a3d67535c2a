"""Everything that can go wrong, by whose fault it is. Knows neither HTTP nor gRPC.

    HemaVisionError
    |-- RequestError                what the client sent cannot be answered
    |   |-- InvalidOption           an option that does not exist, or a value out of range
    |   |-- MissingPhotograph       no body, no part named `file`, or an empty one
    |   |-- UnsupportedMedia        not a picture, or not in a format that is read here
    |   |-- UnreadablePhotograph    a picture that is damaged, truncated or too small to hold a cell
    |   `-- PhotographTooLarge      more bytes or more pixels than are accepted
    |-- ServiceError                this service cannot answer now
    |   |-- Overloaded              too many requests at once: come back
    |   |-- ModelUnavailable        no model server, no model in it, or no answer in time
    |   `-- ModelMisbehaved         the model server's answer breaks the contract
    `-- SettingsError               the service was started with settings that make no sense

Every message is a sentence that the person who can mend it can act on.
"""

from __future__ import annotations


class HemaVisionError(Exception):
    """Base of all errors of the gateway."""


class RequestError(HemaVisionError):
    """What the client sent cannot be answered."""


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


class ServiceError(HemaVisionError):
    """This service cannot answer now."""


class Overloaded(ServiceError):
    """Too many requests at once."""


class ModelUnavailable(ServiceError):
    """No model server, no model in it, or no answer in time."""


class ModelMisbehaved(ServiceError):
    """The model server's answer breaks the contract."""


class SettingsError(HemaVisionError):
    """The service was started with settings that make no sense."""
