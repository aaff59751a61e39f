"""Where files of the state are kept, as configured."""

from __future__ import annotations

from dataclasses import dataclass, field

from traffic_cop_middleware.abstractions.files.management import GRACE
from traffic_cop_middleware.contracts import FileMetadataStore, ObjectStore
from traffic_cop_middleware.errors import ConfigurationError

DEADLINE = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesSettings:
    """The files' settings. Checked when made.

    `deadline` is the seconds that a call to the files or their metadata may take, `grace` the seconds for which an
    object that no file names is left alone.
    """

    objects: str | ObjectStore | None = field(default=None, repr=False)
    metadata: str | FileMetadataStore | None = field(default=None, repr=False)
    deadline: float = DEADLINE
    grace: float = GRACE

    def __post_init__(self) -> None:
        if self.objects is not None and not isinstance(self.objects, str) and not hasattr(self.objects, "create"):
            raise ConfigurationError(
                f"files: a URL such as 'file:///var/lib/app/files' or an opened object store, not a "
                f"{type(self.objects).__name__}"
            )
        if self.metadata is not None and not isinstance(self.metadata, str) and not hasattr(self.metadata, "announce"):
            raise ConfigurationError(
                f"file_metadata: a URL such as 'sqlite:///files.db' or an opened metadata store, not a "
                f"{type(self.metadata).__name__}"
            )
        if self.objects is not None and self.metadata is None:
            raise ConfigurationError(
                "files=… needs file_metadata=…, which knows what each file is of: write "
                "file_metadata='sqlite:///files.db', or supabase+https://key@project.supabase.co"
            )
        for name, value, usual in (("files_deadline", self.deadline, DEADLINE), ("files_grace", self.grace, GRACE)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
                raise ConfigurationError(f"{name}={value!r}: seconds, above 0; {usual:g} is usual")
