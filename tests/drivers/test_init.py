from __future__ import annotations

import subprocess
import sys

import pytest

from usernet import drivers


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_drivers_are_loaded_when_named():
    assert run("import sys, usernet.drivers; print([m for m in sys.modules if m.endswith(('tuntap', 'pcap'))])") == "[]"
    assert run("import usernet.drivers as d, sys; d.Tap; print('pyroute2' in sys.modules)") == "False"


def test_veth_stays_the_function_whatever_is_imported_first():
    assert run("from usernet.drivers.veth import Veth; from usernet import drivers; print(len(drivers.veth()))") == "2"


@pytest.mark.parametrize("name", drivers.__all__)
def test_every_name_is_there(name):
    assert getattr(drivers, name).__name__ == name


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Nic"):
        drivers.Nic
    assert "Tap" in dir(drivers)
