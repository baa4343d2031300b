"""The algorithms of TCP-AO against the test vectors of RFC 9235: traffic keys, and the codes of whole segments."""

from __future__ import annotations

import errno
import sys
from typing import Any

import pytest

from tests.transport.tcp.harness import code
from usernet.transport.tcp.ao import TCP_AO_KEYF_EXCLUDE_OPT, AoKey, ao_code
from usernet.transport.tcp.ao_crypto import find
from usernet.wire.tcp import parse_auth_options

MASTER = b"testvector"

# (section, packet, traffic key, initial number of the sender, of the receiver, other options covered, algorithm)
VECTORS = [
    ("4.1.1", (
     "45e0004cdd0f4000ff06bf6b0a0b0c0dac1b1c1de9d700b3fbfbab5a00000000e002ffffcac40000020405b4010303080402080a"
     "00155ab7000000001d103d542ee437c6f8ede6d7c4d602e7"),
     "6d63ef1b02fe1509d4b1402707fd7b0416abb74f", 0xFBFBAB5A, 0, True, "hmac(sha1)"),
    ("4.1.2", (
     "45e0004c65064000ff063775ac1b1c1d0a0b0c0d00b3e9d711c14261fbfbab5be012ffff37760000020405b4010303080402080a"
     "84a50beb00155ab71d10543deeab0fe24c3010815116b3be"),
     "d9e217e4834a80ca2f3fd8de2e41b8e6797fea96", 0x11C14261, 0xFBFBAB5A, True, "hmac(sha1)"),
    ("4.1.3", (
     "45e0008736a14000ff06659f0a0b0c0dac1b1c1de9d700b3fbfbab5b11c14262c0180104a16200000101080a00155ac184a50beb"
     "1d103d547064cf998cc6c315c2c2e2bfffffffffffffffffffffffffffffffff00430104dabf00b40a0b0c0d260206010400010001020280"
     "000202020002024200020641040000dabf020840060064000101"
     "00"),
     "d2e59c65ffc7b1a393476564 63b70edc24a13d71", 0xFBFBAB5A, 0x11C14261, True, "hmac(sha1)"),
    ("4.1.4", (
     "45e000871fa94000ff067c97ac1b1c1d0a0b0c0d00b3e9d711c14262fbfbab9ec0180100400c00000101080a84a50bf500155ac1"
     "1d10543da63f0ecbbb2e635c954deac7ffffffffffffffffffffffffffffffff00430104dac000b4ac1b1c1d260206010400010001020280"
     "000202020002024200020641040000dac002084006006400010100"),
     "d9e217e4834a80ca2f3fd8de2e41b8e6797fea96", 0x11C14261, 0xFBFBAB5A, True, "hmac(sha1)"),
    ("4.2.1", (
     "45e0004c53994000ff0648e20a0b0c0dac1b1c1dff1200b3cb0efbee00000000e002ffff541f0000020405b4010303080402080a"
     "00024cce000000001d103d5480af3cfeb85368937b8f9ec2"),
     "30eaa1560cf0be57dab5c045229fb10a423cd7ea", 0xCB0EFBEE, 0, False, "hmac(sha1)"),
    ("4.2.2", (
     "45e0004c32844000ff0669f7ac1b1c1d0a0b0c0d00b3ff12acd5b5e1cb0efbefe012ffff388e0000020405b4010303080402080a"
     "576772f300024cce1d10543d09306f9acea63a8c68cb9a70"),
     "b5b2896bb3664e8176b0edc6e799524101a8307f", 0xACD5B5E1, 0xCB0EFBEE, False, "hmac(sha1)"),
    ("4.2.3", (
     "45e00087a8f54000ff06f34a0a0b0c0dac1b1c1dff1200b3cb0efbefacd5b5e2c01801046c4500000101080a00024cce576772f3"
     "1d103d54710608cc696c03a271c93aa5ffffffffffffffffffffffffffffffff00430104dabf00b40a0b0c0d260206010400010001020280"
     "000202020002024200020641040000dabf02084006006400010100"),
     "f3db1793d7910ecd806c34f155ea1f00345953e3", 0xCB0EFBEE, 0xACD5B5E1, False, "hmac(sha1)"),
    ("4.2.4", (
     "45e0008754374000ff064809ac1b1c1d0a0b0c0d00b3ff12acd5b5e2cb0efc32c018010046b600000101080a576772f300024cce"
     "1d10543d97766e48ac262de9ae61b4f9ffffffffffffffffffffffffffffffff00430104dac000b4ac1b1c1d260206010400010001020280"
     "000202020002024200020641040000dac002084006006400010100"),
     "b5b2896bb3664e8176b0edc6e799524101a8307f", 0xACD5B5E1, 0xCB0EFBEE, False, "hmac(sha1)"),
    ("5.1.1", (
     "45e0004c7b9f4000ff0620dc0a0b0c0dac1b1c1dc4fa00b3787a1ddf00000000e002ffff5a0f0000020405b4010303080402080a"
     "00017ed0000000001d103d54e477e99c8040765498e55091"),
     "f5b8b3d5f34fdbb6eb8d4ab9660e60e3", 0x787A1DDF, 0, True, "cmac(aes128)"),
    ("6.1.1", (
     "6e0891dc00380640fd000000000000000000000000000001fd000000000000000000000000000002f7e400b3176a833f00000000"
     "e002ffff47210000020405a0010303080402080a0041d087000000001d103d549033ec3d7334b64c5edd039f"),
     "625ec09d575836edc9b6428418bbf06989a361bb", 0x176A833F, 0, True, "hmac(sha1)"),
    ("6.1.2", (
     "6e01009e00380640fd000000000000000000000000000002fd00000000000000000000000000000100b3f7e43f51994b176a8340"
     "e012ffffbfec0000020405a0010303080402080abd33129b0041d0871d10543df1cba346c3526163f71f1f55"),
     "e4a37ada2a0afca8711434913fe138c771ebcb4a", 0x3F51994B, 0x176A833F, True, "hmac(sha1)"),
    ("6.2.2", (
     "6e0a7e1f00380640fd000000000000000000000000000002fd00000000000000000000000000000100b3c6cdeba3734d020c1e6a"
     "e012ffff774d0000020405a0010303080402080a5ec99b70009db95b1d10543d3c546bad9743f12df8b8010d"),
     "405108947f996575e7bdbc26d40216a2c7fa91bd", 0xEBA3734D, 0x020C1E69, False, "hmac(sha1)"),
    ("6.2.4", (
     "6e0a7e1f00730640fd000000000000000000000000000002fd00000000000000000000000000000100b3c6cdeba3734e020c1ead"
     "c0180100716a00000101080a5ec99b7a009db9651d10543d559a819445b4fde98d9e1317ffffffffffffffffffffffffffffffff00430104"
     "fde800b40101017a260206010400010001020280000202020002024200020641040000fde802084006006400010100"),
     "405108947f996575e7bdbc26d40216a2c7fa91bd", 0xEBA3734D, 0x020C1E69, False, "hmac(sha1)"),
    ("7.1.2", (
     "6e06152000380640fd000000000000000000000000000002fd00000000000000000000000000000100b3f85aa6744ecb193ccced"
     "e012ffffeabb0000020405a0010303080402080a71daabc813e4ab991d10543ddc2843a84e78a6bcfdc5ed80"),
     "cf1b1e225e06a63616764a067b46f4b1", 0xA6744ECB, 0x193CCCEC, True, "cmac(aes128)"),
    ("7.1.4", (
     "6e06152000730640fd000000000000000000000000000002fd00000000000000000000000000000100b3f85aa6744ecc193ccd30"
     "c018010052f400000101080a71daabd313e4aba31d10543dc1069b7dfd3d693a6df3f289ffffffffffffffffffffffffffffffff00430104"
     "fde800b40101017a260206010400010001020280000202020002024200020641040000fde802084006006400010100"),
     "cf1b1e225e06a63616764a067b46f4b1", 0xA6744ECB, 0x193CCCEC, True, "cmac(aes128)"),
]  # fmt: skip


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector[0])
def test_rfc_9235(vector: tuple[str, str, str, int, int, bool, str]):
    _, octets, traffic, sisn, disn, options, name = vector
    packet = bytes.fromhex(octets)
    if packet[0] >> 4 == 4:
        saddr, daddr, segment = packet[12:16], packet[16:20], packet[20:]
    else:
        saddr, daddr, segment = packet[8:24], packet[24:40], packet[40:]
    algorithm = find(name)
    flags = 0 if options else TCP_AO_KEYF_EXCLUDE_OPT
    key = AoKey(saddr, len(saddr) * 8, 61, 84, algorithm, algorithm.master_key(MASTER), 12, flags)
    sport, dport = int.from_bytes(segment[:2], "big"), int.from_bytes(segment[2:4], "big")
    made = key.traffic_key(saddr, daddr, sport, dport, sisn, disn)
    assert made == bytes.fromhex(traffic)
    doff = segment[12] >> 4 << 2
    found = parse_auth_options(segment, 20, doff)
    assert found is not None
    at = found[1] + 4
    data = [segment[doff:]]
    assert ao_code(key, made, 0, saddr, daddr, segment[:doff], at, data, len(segment)) == segment[at : at + 12]
    # The upper half of the sequence number counts, and so does every byte of the data.
    assert ao_code(key, made, 1, saddr, daddr, segment[:doff], at, data, len(segment)) != segment[at : at + 12]


@pytest.mark.parametrize(
    ("name", "size"),
    [("hmac(md5)", 16), ("hmac(sha1)", 20), ("hmac(sha256)", 32), ("hmac(sha512)", 64), ("hmac(sha3-256)", 32),
     ("cmac(aes)", 16), ("cmac(aes128)", 16)],
)  # fmt: skip
def test_what_there_is(name: str, size: int):
    algorithm = find(name)
    assert algorithm.digest_size == len(algorithm.mac(algorithm.master_key(b"k" * 16), b"message")) == size
    # TCP_AO_GET_KEYS tells AES-128's CMAC by the name of the function that it is.
    assert algorithm.name == name.replace("aes128", "aes")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("", errno.ENOENT), ("hmac(sha1", errno.ENOENT), ("hmac()", errno.ENOENT), ("HMAC(SHA1)", errno.ENOENT),
     ("cmac(des3_ede)", errno.ENOENT), ("sha1", errno.ENOSYS)],
)  # fmt: skip
def test_what_there_is_not(name: str, expected: int):
    assert code(find, name) == expected


def test_aes_takes_keys_of_its_sizes_and_the_kdf_any():
    plain, kdf = find("cmac(aes)"), find("cmac(aes128)")
    for size in range(81):
        assert code(plain.master_key, b"k" * size) == (0 if size in (16, 24, 32) else errno.EINVAL)
        master = kdf.master_key(b"k" * size)
        assert len(master) == 16 and (master == b"k" * size) == (size == 16)


def test_without_the_package_there_is_no_cmac(monkeypatch: pytest.MonkeyPatch):
    blocked: Any = None
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.cmac", blocked)
    assert code(find, "cmac(aes128)") == errno.ENOENT
    assert find("hmac(sha1)").digest_size == 20
