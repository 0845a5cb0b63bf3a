"""Every setting, where it may come from, and what it means.

`reconciler.toml` < environment `RECONCILER_…` (nested by `__`; `RECONCILER_…_FILE` names the file with a secret) < flags
of the command line. Only app, cli and worker read settings; everything else is given plain values.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
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
from reconciler.core.repository import check_ref, check_subpath, parse_address

CONFIG_FILES = (Path("reconciler.toml"), Path("/etc/reconciler/reconciler.toml"))
"""The first that exists is read, unless --config names one."""


def _duration(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


Duration = Annotated[
    timedelta, BeforeValidator(_duration), PlainSerializer(format_duration, return_type=str, when_used="json")
]


def _dns_label(name: str) -> str:
    if len(name) > 63 or not re.fullmatch(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?", name):
        raise ValueError(f"{name!r} is no DNS label: up to 63 of a-z, 0-9 and '-', beginning and ending without '-'")
    return name


def _address(url: str) -> str:
    return parse_address(url).text


def check_sha256(text: str) -> str:
    """A SHA-256 in hex. Raises ValueError."""
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise ValueError(
            "this is no SHA-256 in hex (64 of 0-9a-f): reconciler token NAME makes a token and says its hash"
        )
    return text


SourceName = Annotated[str, AfterValidator(_dns_label)]
TokenHash = Annotated[str, AfterValidator(check_sha256)]
Url = Annotated[str, AfterValidator(_address)]
Branch = Annotated[str, AfterValidator(check_ref)]
Subpath = Annotated[str, AfterValidator(check_subpath)]


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


class TokenSettings(_Section):
    """Somebody who may use the daemon's port. `reconciler token NAME` makes one."""

    name: SourceName = Field(description="Who it is, as audits have it: a DNS label.")
    hash: TokenHash | None = Field(None, description="SHA-256 of the token, in hex.")
    hash_file: Path | None = Field(None, description="File with the SHA-256 of the token, instead of `hash`.")
    scopes: tuple[Literal["read", "operate", "write"], ...] = Field(
        ("read",),
        description="`read`: look. `operate`: also trigger, retry, cancel. `write`: also put manifests into sources.",
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.hash is None) == (self.hash_file is None):
            raise ValueError(
                "one of hash and hash_file is needed: reconciler token NAME makes a token and says its hash"
            )
        return self


class HttpSettings(_Section):
    """The daemon's own port."""

    enabled: bool = Field(True, description="Serve pages, the API, /metrics, /healthz, /readyz and webhooks.")
    listen: str = Field("127.0.0.1:8440", description="HOST:PORT to listen on.")
    tokens: tuple[TokenSettings, ...] = Field(
        (),
        description="Who may do what. Whatever changes something needs a token; so does reading on any other address than "
        "loopback.",
    )
    metrics_auth: bool = Field(False, description="Whether /metrics needs a token too.")
    allowed_hosts: tuple[str, ...] = Field(
        (), description="Names under which the port is reached through a proxy, beside its own address."
    )

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts_only(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not re.fullmatch(r"[A-Za-z0-9._-]+(?::[0-9]+)?|\[[0-9a-fA-F:.]+\](?::[0-9]+)?", name):
                raise ValueError(f"{name!r} is no name of a host, such as ops.example.org")
        return names

    @field_validator("tokens")
    @classmethod
    def _named_once(cls, tokens: tuple[TokenSettings, ...]) -> tuple[TokenSettings, ...]:
        names = [each.name for each in tokens]
        if len(names) > len(set(names)):
            raise ValueError("two tokens have one name: audits could not tell them apart")
        return tokens


class MetricsSettings(_Section):
    """What Prometheus is told beside the usual."""

    labels: tuple[str, ...] = Field(
        (),
        description="Manifest labels that batchjob_labels shows, each as label_NAME. Keep them few: each value is a series.",
    )

    @field_validator("labels")
    @classmethod
    def _told_apart(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        """By the names that adapters/metrics.py gives them."""
        shown: dict[str, str] = {}
        for label in labels:
            if not label:
                raise ValueError("a label has a name")
            name = "label_" + re.sub(r"[^a-zA-Z0-9_]", "_", label)
            if name in shown:
                both = (
                    f"{label} is named twice" if shown[name] == label else f"{shown[name]} and {label} are both {name}"
                )
                raise ValueError(f"{both}: Prometheus tells labels apart by their names")
            shown[name] = label
        return labels


class StatusBranchSettings(_Section):
    """Where the status of a git source is shown in git."""

    branch: Branch = Field("reconciler-status", description="The branch that the status files are committed to.")
    interval: Duration = Field(timedelta(seconds=10), description="How often it is pushed at most.")


class GitSourceSettings(_Section):
    """A git repository with manifests."""

    name: SourceName = Field(description="What it is called: a DNS label.")
    url: Url = Field(
        description="https, ssh or file URL, `user@host:path`, or the path of a repository on this machine."
    )
    branch: Branch | None = Field(None, description="The branch that is followed. Default: that of its HEAD.")
    tag: Branch | None = Field(None, description="The tag that is followed, instead of a branch.")
    path: Subpath = Field("", description="The folder of the repository that is the root of the source.")
    interval: Duration = Field(timedelta(seconds=30), description="How often a remote is asked for news.")
    timeout: Duration = Field(
        timedelta(seconds=60), description="How long git may take; ten times that for the first clone."
    )
    ssh_key_file: Path | None = Field(None, description="ssh key to read it with.")
    known_hosts_file: Path | None = Field(None, description="known_hosts with the server's key, instead of the user's.")
    token_file: Path | None = Field(None, description="File with the token or password for https.")
    username: str = Field("git", description="User that goes with the token.")
    verify: Literal["none", "ssh", "gpg"] = Field(
        "none", description="Whether its newest commit must be signed by somebody listed; else nothing of it runs."
    )
    allowed_signers_file: Path | None = Field(
        None, description="Who may sign, as `man ssh-keygen` has ALLOWED SIGNERS."
    )
    keyring_file: Path | None = Field(
        None, description="Public keys of those who may sign, as `gpg --export` writes them."
    )
    webhook_secret_file: Path | None = Field(
        None, description="File with the secret of POST /hooks/git/NAME. None: there is no such hook."
    )
    status: StatusBranchSettings | None = Field(None, description="Commit its status files to a branch.")
    write: bool = Field(
        False, description="Whether manifests may be put into it by the web page and the API: a commit."
    )
    write_to: Subpath = Field("jobs", description="The folder for them, below the root of the source.")
    signing_key_file: Path | None = Field(
        None,
        description="ssh key that those commits are signed with. Where commits must be signed (`verify`), nothing is written "
        "without one.",
    )
    ansible: AnsibleSettings | None = Field(None, description="How Ansible is started for it, instead of [ansible].")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.branch is not None and self.tag is not None:
            raise ValueError("branch and tag are both given: which is to be followed?")
        if self.verify == "ssh" and self.allowed_signers_file is None:
            raise ValueError("verify is ssh, so allowed_signers_file has to name who may sign")
        if self.verify == "gpg" and self.keyring_file is None:
            raise ValueError("verify is gpg, so keyring_file has to name the keys of those who may sign")
        if self.verify == "gpg" and self.signing_key_file is not None:
            raise ValueError("signing_key_file is a key of ssh, and verify asks for signatures of gpg")
        if self.status is not None and self.tag is None and self.status.branch == self.branch:
            raise ValueError("status.branch is the branch that is followed: the status would be read as manifests")
        return self


class GitSettings(_Section):
    """What holds for every git source."""

    protocols: tuple[Literal["https", "http", "ssh", "git", "file"], ...] = Field(
        ("https", "ssh", "file"),
        description="Protocols that a source may use; a path on this machine counts as file.",
    )
    max_files: int = Field(200_000, ge=1, description="Largest number of files in a commit.")
    max_bytes: int = Field(4 << 30, ge=1, description="Largest size of a checkout, in bytes.")


class AuditSettings(_Section):
    """What is kept to be asked about later."""

    keep: Duration = Field(
        timedelta(days=400),
        description="How long runs, what happened to their hosts, causes and requests are kept; a job's latest run stays.",
    )


class SourceSettings(_Section):
    """A directory as source, and its bounds."""

    write: bool = Field(False, description="Whether manifests may be put into it by the web page and the API: a file.")
    write_to: Subpath = Field("jobs", description="The folder for them, below the root of the source.")

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
    database_url: SecretStr | None = Field(
        None,
        description="The database: sqlite:////path, postgresql://user:password@host/name or mysql://user:password@host/name. "
        "Default: SQLite in the state directory.",
    )
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
    max_log_bytes: int = Field(
        10 << 20,
        ge=1 << 10,
        description="Largest log of one host in one attempt, in bytes; of a longer one the middle is left out, and that is marked.",
    )
    min_free_bytes: int = Field(
        200 << 20,
        ge=0,
        description="Less than so many bytes free on the disk of the state directory count as nearly full: /readyz and the log say so. 0: never.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="How much the log tells.")
    ansible: AnsibleSettings = Field(AnsibleSettings(), description="How Ansible is started.")
    inventory: InventorySettings = Field(InventorySettings(), description="Where hosts come from.")
    http: HttpSettings = Field(HttpSettings(), description="The daemon's own port.")
    metrics: MetricsSettings = Field(MetricsSettings(), description="What Prometheus is told beside the usual.")
    audit: AuditSettings = Field(AuditSettings(), description="What is kept to be asked about later.")
    source: SourceSettings = Field(SourceSettings(), description="A directory as source, and its bounds.")
    git: GitSettings = Field(GitSettings(), description="What holds for every git source.")
    sources: tuple[GitSourceSettings, ...] = Field(
        (), description="Git repositories with manifests, one [[sources]] each."
    )

    @model_validator(mode="after")
    def _sources_apart(self) -> Self:
        names = [source.name for source in self.sources]
        followed = {(source.url, source.branch) for source in self.sources}
        for source in self.sources:
            if source.status is not None and (source.url, source.status.branch) in followed:
                raise ValueError(f"sources: the status branch of {source.name} is one that is followed as a source")
            if names.count(source.name) > 1:
                raise ValueError(f"sources: the name {source.name} is given twice")
            protocol = parse_address(source.url).protocol or "file"
            if protocol not in self.git.protocols:
                raise ValueError(f"sources: {source.name} uses {protocol}, which git.protocols does not allow")
        return self

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
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Refused(Reason.SETTINGS_INVALID, f"{file}: {why}", "it must be TOML") from error


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
