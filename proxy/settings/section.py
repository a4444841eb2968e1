"""What every section of the settings is: a frozen table that knows its keys and does not show secrets."""

from typing import Annotated

import msgspec
from msgspec import Meta

from proxy.settings.addresses import without_credentials

_SECRETS = frozenset({"key_hash_secret"})


def _without_secret(name: str, value: object) -> str:
    """A setting as it may be shown: secrets and the credentials of URLs are left out."""
    if name in _SECRETS:
        return "'***'" if value else "''"
    return repr(without_credentials(value)) if name.endswith("url") and isinstance(value, str) else repr(value)


Seconds = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of `meter.toml`. Unknown keys are errors, because a misspelt limit is no limit."""

    def __repr__(self) -> str:
        shown = (f"{name}={text}" for name, text in self.shown().items())
        return f"{type(self).__name__}({', '.join(shown)})"

    def shown(self) -> dict[str, str]:
        """Each setting as it may be shown: secrets and the credentials of URLs are left out."""
        return {name: _without_secret(name, getattr(self, name)) for name in self.__struct_fields__}
