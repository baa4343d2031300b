from __future__ import annotations

import errno
import os
import re

import pytest

from usernet.drivers.tuntap import IFF_TAP, Tap, Tun, attach, explain, open_device


@pytest.mark.parametrize("name", ["a" * 16, "with space", "a/b", ".."])
def test_a_name_that_is_none(name):
    with pytest.raises(ValueError, match=r"^name: expected at most 15"):
        Tap(name)


def test_bad_values_are_named_before_anything_is_made():
    with pytest.raises(ValueError, match=r"^mtu: expected"):
        Tap("tap0", mtu=10)
    with pytest.raises(ValueError, match=r"^address: expected"):
        Tun("tun0", address="10.0.0.1")
    with pytest.raises(ValueError, match=r"^route: expected"):
        Tun("tun0", routes=["10.0.0.1/8"])


def test_without_the_device_file_it_says_so():
    with pytest.raises(FileNotFoundError, match="there is no /no/such: load the kernel's module tun"):
        open_device("/no/such")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (errno.EPERM, "Tap 'tap0': making one takes CAP_NET_ADMIN; .* ip tuntap add tap0 mode tap user"),
        (errno.EBUSY, "Tap 'tap0': another program is attached"),
        (errno.EINVAL, "Tap 'tap0': the host has an interface of that name which is no TAP"),
        (errno.ENOMEM, "Tap 'tap0': Cannot allocate memory"),
    ],
)
def test_what_the_kernel_refuses_is_explained(code, text):
    problem = explain(code, "tap0", "Tap")
    assert problem.errno == code
    assert re.match(text, problem.strerror or "")


def test_another_file_is_no_tun_device():
    descriptor = open_device("/dev/null")
    try:
        with pytest.raises(OSError, match="Tap 'tap0': Inappropriate ioctl"):
            attach(descriptor, b"tap0", IFF_TAP, "Tap")
    finally:
        os.close(descriptor)
