"""Every setting, where it may come from, and what it means.

`reconciler.toml` < environment `RECONCILER_…` (nested by `__`; `RECONCILER_…_FILE` names the file with a secret) < flags
of the command line. Only app, cli and worker read settings; everything else is given plain values.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationError,
    field_serializer,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from reconciler.core.errors import Refused
from reconciler.core.manifest import format_duration, parse_duration
from reconciler.core.reasons import Reason

CONFIG_FILES = (Path("reconciler.toml"), Path("/etc/reconciler/reconciler.toml"))
"""The first that exists is read, unless --config names one."""


def _duration(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


Duration = Annotated[
    timedelta, BeforeValidator(_duration), PlainSerializer(format_duration, return_type=str, when_used="json")
]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AnsibleSettings(_Section):
    """How Ansible is started."""

    ansible_playbook: str | None = Field(
        None, description="Path of ansible-playbook. Default: beside this Python, else the first on PATH."
    )
    private_key_file: Path | None = Field(None, description="ssh key to log in with.")
    vault_password_files: tuple[Path, ...] = Field((), description="Files with vault passwords, tried in order.")
    become_password_file: Path | None = Field(None, description="File with the password for become.")
    remote_user: str | None = Field(None, description="User to log in as, where the inventory names none.")
    ssh_common_args: str | None = Field(None, description="More arguments for ssh.")
    known_hosts_file: Path | None = Field(
        None, description="known_hosts to check hosts against, instead of the user's."
    )
    pass_env: tuple[str, ...] = Field(("SSH_AUTH_SOCK",), description="Environment variables that Ansible gets too.")
    pipelining: bool | None = Field(None, description="Ansible's pipelining; unset: as ansible.cfg says.")


class InventorySettings(_Section):
    """Where hosts come from when a manifest does not say."""

    default: tuple[str, ...] = Field((), description="Inventory paths, relative to the root of the source.")
    refresh: Duration = Field(timedelta(minutes=5), description="How old a dynamic inventory may be for display.")
    tags_variable: str = Field("reconciler_tags", description="Inventory variable that holds a host's tags.")


class HttpSettings(_Section):
    """The daemon's own port."""

    enabled: bool = Field(True, description="Serve /metrics, /healthz and /readyz.")
    listen: str = Field("127.0.0.1:8440", description="HOST:PORT to listen on.")


class SourceSettings(_Section):
    """Bounds of a directory as source."""

    max_files: int = Field(50_000, ge=1, description="Largest number of files in a directory source.")
    max_bytes: int = Field(1 << 30, ge=1, description="Largest size of a directory source, in bytes.")


class Settings(BaseSettings):
    """All settings of one process."""

    model_config = SettingsConfigDict(
        env_prefix="RECONCILER_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        nested_model_default_partial_update=True,
    )

    state_dir: Path = Field(Path(".reconciler"), description="Where the database, status files and snapshots live.")
    database_url: SecretStr | None = Field(None, description="SQLAlchemy URL. Default: SQLite in the state directory.")
    manifests: tuple[str, ...] = Field(
        ("jobs/**/*.yaml", "jobs/**/*.yml"), description="Globs of the files of a source that are manifests."
    )
    max_limit: int = Field(20, ge=1, description="The highest `limit` that a manifest may have.")
    max_running: int = Field(50, ge=1, description="Children at a time, of all jobs together.")
    workers: int = Field(4, ge=1, description="Jobs that are looked at at the same time.")
    resync: Duration = Field(
        timedelta(seconds=60), description="How often a source is read though nothing was noticed."
    )
    status_children: int = Field(200, ge=1, description="Children listed in a status file; the database has all.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="How much the log tells.")
    ansible: AnsibleSettings = Field(AnsibleSettings(), description="How Ansible is started.")
    inventory: InventorySettings = Field(InventorySettings(), description="Where hosts come from.")
    http: HttpSettings = Field(HttpSettings(), description="The daemon's own port.")
    source: SourceSettings = Field(SourceSettings(), description="Bounds of a directory as source.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the library calls it with these
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags over environment over file."""
        return (init_settings, _SecretFiles(settings_cls), env_settings, TomlConfigSettingsSource(settings_cls))

    @property
    def url(self) -> str:
        """Of the database, with its password."""
        named = self.database_url.get_secret_value() if self.database_url is not None else ""
        return named or f"sqlite:///{self.state_dir.resolve() / 'reconciler.db'}"

    @field_serializer("database_url", when_used="json-unless-none")
    def _without_password(self, url: SecretStr) -> str:
        return _redacted(url.get_secret_value())


class _SecretFiles(PydanticBaseSettingsSource):
    """Secrets out of files that the environment names. Raises Refused for one that can't be had, since whoever goes on
    without it works with the default: an empty database, in which every job is new."""

    def __call__(self) -> dict[str, Any]:
        config = self.settings_cls.model_config
        self._environment = {name.lower(): value for name, value in os.environ.items()}
        self._delimiter = str(config.get("env_nested_delimiter"))
        return self._below(self.settings_cls, str(config.get("env_prefix")))

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False  # one by one is not how this source is asked

    def _below(self, model: type[BaseModel], prefix: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, field in model.model_fields.items():
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                value: object = self._below(kind, f"{prefix}{name}{self._delimiter}")
            else:
                value = _secret(self._environment, f"{prefix}{name}".upper()) if is_secret(field) else None
            if value:
                found[name] = value
        return found


def is_secret(field: FieldInfo) -> bool:
    """Whether a setting is shown to nobody, and may be in a file that the environment names."""
    return SecretStr in (field.annotation, *get_args(field.annotation))


def _secret(environment: Mapping[str, str], variable: str) -> str | None:
    named = environment.get(f"{variable}_FILE".lower())
    if not named:
        return None
    if environment.get(variable.lower()):
        raise Refused(
            Reason.SETTINGS_INVALID, f"{variable} and {variable}_FILE are both set", "which of them counts? Set one"
        )
    try:
        secret = Path(named).expanduser().read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise Refused(
            Reason.SETTINGS_INVALID,
            f"{variable}_FILE names {named}, which can't be read: {why}",
            "give the user that runs reconciler a file with the secret in it",
        ) from error
    if not secret:
        raise Refused(
            Reason.SETTINGS_INVALID, f"{variable}_FILE names {named}, which is empty", "write the secret to it"
        )
    return secret


def _redacted(url: str) -> str:
    """A URL of a database for people: whose and where, without the password and what else its query may hold."""
    scheme, _, rest = url.partition("://")
    credentials, at, place = rest.rpartition("@")
    user, with_password, _ = credentials.partition(":")
    place, query, _ = place.partition("?")
    if not rest:
        return "***"
    return f"{scheme}://{user}{':***' if with_password else ''}{at}{place}{'?***' if query else ''}"


def load_settings(config: Path | None, **flags: Any) -> Settings:
    """The settings of this process. Raises Refused (SettingsInvalid) with the name of what is wrong and its remedy."""
    file = config or next((path for path in CONFIG_FILES if path.is_file()), None)
    if file is not None and not file.is_file():
        raise Refused(Reason.SETTINGS_INVALID, f"there is no settings file {file}", "see --config")

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return FromFile(**given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        where = (
            f" (from {file}, the environment or a flag)" if file is not None else " (from the environment or a flag)"
        )
        said = "there is no such setting" if first["type"] == "extra_forbidden" else first["msg"]
        message = f"setting {name}: {said.removeprefix('Value error, ')}{where}"
        raise Refused(Reason.SETTINGS_INVALID, message, "reconciler config show lists them all") from error
    except SettingsError as error:  # of a list in the environment
        variables = " or ".join(sorted(_no_json()))
        message = f"{variables} in the environment can't be read: a list is JSON there"
        raise Refused(Reason.SETTINGS_INVALID, message, """for example '["one", "two"]'""") from error
    except ValueError as error:
        raise Refused(Reason.SETTINGS_INVALID, f"{file}: {error}", "it must be TOML") from error


def _no_json() -> Iterator[str]:
    """Variables of lists and sections that don't hold JSON: the library names only the section they are of."""
    structured = set(_structured(Settings, str(Settings.model_config["env_prefix"])))
    for name, value in os.environ.items():
        if name.upper() in structured:
            try:
                json.loads(value)
            except ValueError:
                yield name


def _structured(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        variable, kind = f"{prefix}{name}".upper(), field.annotation
        if get_origin(kind) is tuple:
            yield variable
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            yield variable
            yield from _structured(kind, f"{variable}{Settings.model_config['env_nested_delimiter']}")
