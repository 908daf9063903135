"""Which engines work. Each is tried in a process of its own: a broken library may take that with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import msgspec

from infs.cli.checkup.findings import Finding, Patient, note, ok, problem
from infs.cli.checkup.machine import cpu_features, has_nvidia, nvidia_gpus
from infs.cli.engines import engine_specs
from infs.engines.base import EngineSpec
from infs.errors import MissingExtra
from infs.store.progress import size_text

LONGEST = 300  # characters of what a library says before it ends
CUDA_BUILD = "pip install --force-reinstall --no-cache-dir llama-cpp-python, with CMAKE_ARGS={} in the environment"


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an engine in a process of its own.

    Attributes:
        steps: what it said, by the names of the steps that it came through.
        failure: why it came no further; empty where it came to its end.
    """

    steps: dict[str, dict[str, Any]]
    failure: str = ""


def check_engines(patient: Patient) -> list[Finding]:
    """All of them."""
    found: list[Finding] = []
    for name, spec in engine_specs().items():
        if isinstance(spec, EngineSpec):
            found += check_engine(spec, patient)
        else:
            found.append(problem(name, spec.message, "Repair the package that offers it, or remove it."))
    return found


def check_engine(spec: EngineSpec, patient: Patient) -> list[Finding]:
    """Whether `spec` is installed and works, and what it can use."""
    try:
        spec.check_installed()
    except MissingExtra as error:
        return [note(spec.name, error.message, f'If you need it: pip install "infs[{spec.extra}]"')]
    probe = probe_engine(spec, patient)
    versions = ", ".join(f"{name} {number}" for name, number in probe.steps.get("import", {}).items())
    if probe.failure:
        todo = f"Install it again: pip install --force-reinstall --no-cache-dir {' '.join(spec.requires)}"
        if "describe" in probe.steps:
            todo += ". What it was built for may not be what this machine has; build it here (see docs/models.md)"
        return [problem(spec.name, f"{probe.failure} ({versions or 'no version known'}).", todo, **probe.steps)]
    answer = "" if "demo" not in probe.steps else "; the demo model answers"
    facts = probe.steps.get("describe", {})
    return [ok(spec.name, f"Works: {versions}{answer}.", **probe.steps), *_check_build(spec, facts, patient)]


# --- a process of its own -------------------------------------------------------------------------------------


def probe_engine(spec: EngineSpec, patient: Patient) -> Probe:
    """Try `spec` as a worker would."""
    process = subprocess.Popen(
        [sys.executable, "-m", "infs.cli.probe", spec.name],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**spec.environment, **patient.environ},
        cwd=patient.directory,
    )
    with process:
        try:
            out, err = process.communicate(timeout=patient.timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            return Probe(steps=_steps(out), failure=f"It did not start within {patient.timeout:g} seconds")
    return Probe(steps=_steps(out), failure=_failure(process.returncode, err))


def _steps(out: bytes) -> dict[str, dict[str, Any]]:
    steps: dict[str, dict[str, Any]] = {}
    for line in out.decode("utf-8", "replace").splitlines():
        try:
            said = json.loads(line)
            steps[said["step"]] = said["facts"]
        except (ValueError, KeyError, TypeError):
            continue  # half a line of a process that was killed
    return steps


def _failure(status: int, err: bytes) -> str:
    if status == 0:
        return ""
    lines = [line.strip() for line in err.decode("utf-8", "replace").splitlines() if line.strip()]
    said = f": {lines[-1][:LONGEST]}" if lines else ""
    if status < 0:
        return f"Its process was killed by {_signal_name(-status)}{said}"
    if status >= 0x80000000:  # Windows
        return f"Its process crashed with {status:#010x}{said}"
    return f"It fails{said}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


# --- what it can use ------------------------------------------------------------------------------------------


def _check_build(spec: EngineSpec, facts: dict[str, Any], patient: Patient) -> list[Finding]:
    if not facts:
        return []
    return [*_check_devices(spec, facts), *_check_instructions(spec, facts)]


def _check_devices(spec: EngineSpec, facts: dict[str, Any]) -> list[Finding]:
    devices, area = facts.get("devices", []), f"{spec.name} devices"
    if devices:
        return [
            ok(
                area,
                "; ".join(
                    f"{one['name']} ({one['description']}, {size_text(one['free'])} of {size_text(one['total'])} free)"
                    for one in devices
                )
                + ".",
                devices=devices,
            )
        ]
    backends = facts.get("backends", [])
    if has_nvidia() and "cuda" not in backends and "vulkan" not in backends:
        gpus = ", ".join(nvidia_gpus()) or "an NVIDIA GPU"
        todo = f"{CUDA_BUILD.format('-DGGML_CUDA=on')} (needs the CUDA toolkit)"
        return [note(area, f"There is {gpus}, and this build is for the CPU only.", todo, backends=backends)]
    if has_nvidia() and "cuda" in backends:
        todo = "Look whether nvidia-smi works, and whether CUDA_VISIBLE_DEVICES hides the GPU"
        return [problem(area, "This build is for CUDA, and finds no GPU.", todo, backends=backends)]
    if sys.platform == "darwin" and os.uname().machine == "arm64":
        todo = CUDA_BUILD.format("-DGGML_METAL=on")
        return [note(area, "This Mac has a GPU, and this build does not use it.", todo, backends=backends)]
    return [ok(area, f"The CPU, on {facts.get('threads', '?')} threads.", backends=backends)]


def _check_instructions(spec: EngineSpec, facts: dict[str, Any]) -> list[Finding]:
    built, area = facts.get("build", {}), f"{spec.name} build"
    said = ", ".join(name if value == "1" else f"{name}={value}" for name, value in built.items())
    unused = [name for name in ("AVX2", "AVX512") if name in cpu_features() and name not in built]
    if unused and built:
        todo = CUDA_BUILD.format("-DGGML_NATIVE=on")
        return [note(area, f"This CPU has {', '.join(unused)}, and this build does not use it.", todo, build=built)]
    return [ok(area, f"{said}.", build=built)] if said else []
