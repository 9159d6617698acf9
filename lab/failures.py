"""Failures as the server reports them: a code and its parameters."""


class XapiFailure(Exception):
    """A call fails with this code; clients see `[code, *parameters]`.

    Attributes:
        code: Such as `HANDLE_INVALID`.
        parameters: Texts, in the order the code declares them.
    """

    def __init__(self, code: str, *parameters: object) -> None:
        self.code = code
        self.parameters = [str(parameter) for parameter in parameters]
        super().__init__(code, *self.parameters)

    @property
    def description(self) -> list[str]:
        """Code first, then its parameters: the wire form."""
        return [self.code, *self.parameters]


def storage_failure(number: int, text: str, detail: str = "") -> XapiFailure:
    """Make an `SR_BACKEND_FAILURE_<number>`; it always has three parameters, the text second."""
    said = f"{text} [opterr={detail}]" if detail else text
    return XapiFailure(f"SR_BACKEND_FAILURE_{number}", "", said, "")


def not_allowed(reason: str) -> XapiFailure:
    """Make an `OPERATION_NOT_ALLOWED`."""
    return XapiFailure("OPERATION_NOT_ALLOWED", reason)
