"""What is around: configuration, environment, hub, a server that runs."""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import urlsplit

from infs.cli.checking import check_config
from infs.cli.checkup.findings import Finding, Patient, note, ok, problem
from infs.cli.effective import MASK
from infs.cli.failures import Failed
from infs.cli.options import named_file
from infs.cli.remote import Place, connected, find_place
from infs.cli.words import counted
from infs.config import HubConfig, find_file, load_config
from infs.errors import ConfigError
from infs.store.hub import Hub
from infs.store.web import RetryPolicy

PATIENCE = 5.0  # seconds for the hub
OURS = ("INFS_", "HF_", "HUGGING", "GGML_", "LLAMA_", "GOMP_", "OMP_", "KMP_", "OTEL_", "OLLAMA_")
OTHERS = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "XDG_CACHE_HOME", "SSL_CERT_FILE", "SSL_CERT_DIR")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
SECRET = ("TOKEN", "KEY", "SECRET", "PASSWORD", "HEADERS")


def check_configuration(patient: Patient) -> list[Finding]:
    """Whether ``infs serve`` would take it."""
    named = named_file(patient.config_file, patient.environ)
    report = check_config(named, patient.environ, (), patient.directory)
    if report.problems:
        todo = "infs config check says so as well"
        return [problem("configuration", text, todo) for text in report.problems]
    subject = str(report.file) if report.file is not None else "There is no file, so the demo model is served"
    return [
        ok(
            "configuration",
            f"{subject}; {counted(len(report.models), 'model')}.",
            models=[one.name for one in report.models],
        )
    ]


def check_environment(patient: Patient) -> list[Finding]:
    """Variables that matter."""
    shown = {name: _shown(name, value) for name, value in sorted(patient.environ.items()) if _matters(name)}
    said = ", ".join(f"{name}={value}" for name, value in shown.items())
    found = [ok("environment", f"{said}." if said else "No variable that matters is set.", **shown)]
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        if patient.environ.get(name, "0").strip() in ("", "-1"):
            found.append(note("environment", f"{name} hides all GPUs.", f"Unset {name}, unless that is wanted"))
    if patient.environ.get("OMP_NUM_THREADS", "").strip() == "1":
        todo = "Unset it; device.cpu_threads in the configuration says how many threads a model takes"
        found.append(note("environment", "OMP_NUM_THREADS allows one thread only.", todo))
    return found


def _matters(name: str) -> bool:
    upper = name.upper()
    return upper.startswith(OURS) or upper in (*OTHERS, *PROXIES)


def _shown(name: str, value: str) -> str:
    """`value`, unless it may be a secret."""
    if any(part in name.upper() for part in SECRET):
        return MASK
    parts = urlsplit(value) if "://" in value else None
    return value if parts is None or "@" not in parts.netloc else value.replace(parts.netloc.rpartition("@")[0], MASK)


# --- the network ----------------------------------------------------------------------------------------------


def check_hub(patient: Patient) -> list[Finding]:
    """Whether models can be downloaded from the hub."""
    try:
        hub = Hub(_hub_config(patient), patient.environ, RetryPolicy())
    except ConfigError as error:
        return [problem("hub", error.message, "Correct it, or leave it out")]
    if hub.offline:
        return [ok("hub", f"Offline mode is on; {hub.endpoint} is not asked.", endpoint=hub.endpoint)]
    if patient.offline:
        return [ok("hub", f"{hub.endpoint} was not asked (--offline).", endpoint=hub.endpoint)]
    failure = asyncio.run(_reach(hub.endpoint))
    if failure:
        todo = "Look at the network, the proxy (HTTPS_PROXY) and hub.endpoint; what is in the cache works anyway"
        return [note("hub", f"{hub.endpoint} cannot be reached: {failure}.", todo, endpoint=hub.endpoint)]
    return [ok("hub", f"{hub.endpoint} answers.", endpoint=hub.endpoint)]


def _hub_config(patient: Patient) -> HubConfig:
    return load_config(find_file(patient.config_file, patient.directory), environ=patient.environ).hub


async def _reach(url: str) -> str:
    """Why `url` cannot be reached; empty where it can."""
    import httpx

    try:
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            await client.head(url)
    except httpx.HTTPError as error:
        return str(error) or type(error).__name__
    return ""


def check_server(patient: Patient) -> list[Finding]:
    """Whether a server runs where commands look for one."""
    try:
        place = find_place(patient.url, patient.api_key, patient.config_file, patient.environ, patient.directory)
    except ConfigError:
        return []  # the configuration is a finding of its own
    if not _listens(place.url):
        return [ok("server", f"None runs at {place.url}.", url=place.url)]
    try:
        version, models = asyncio.run(_ask(place))
    except Failed as error:
        return [note("server", error.message, "Stop what runs there, or take another port", url=place.url)]
    return [
        ok(
            "server",
            f"infs {version} runs at {place.url} with {counted(models, 'model')}.",
            url=place.url,
            version=version,
        )
    ]


async def _ask(place: Place) -> tuple[str, int]:
    async with connected(place) as remote:
        status, _ = await remote.status()
    return status.version, len(status.models)


def _listens(url: str) -> bool:
    """Whether anything takes connections at `url`."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"https": 443}.get(parts.scheme, 80)
        socket.create_connection((parts.hostname or "", port), timeout=PATIENCE).close()
    except (OSError, ValueError):
        return False
    return True
