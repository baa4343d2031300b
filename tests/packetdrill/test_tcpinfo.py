from __future__ import annotations

import struct

from usernet.packetdrill.tcpinfo import (
    SO_MEMINFO_LENGTH,
    TCP_INFO_LENGTH,
    so_meminfo,
    tcp_cc_info,
    tcp_info,
)


def test_offsets_are_linuxs():
    # Each byte is its own offset, so a field's value says where it was read.
    info = tcp_info(bytes(range(256)) + bytes(range(TCP_INFO_LENGTH - 256)))
    for name, offset, size in (
        ("tcpi_state", 0, 1), ("tcpi_options", 5, 1), ("tcpi_rto", 8, 4), ("tcpi_unacked", 24, 4), ("tcpi_rtt", 68, 4),
        ("tcpi_snd_cwnd", 80, 4), ("tcpi_total_retrans", 100, 4), ("tcpi_pacing_rate", 104, 8),
        ("tcpi_bytes_received", 128, 8), ("tcpi_segs_out", 136, 4), ("tcpi_delivery_rate", 160, 8),
        ("tcpi_busy_time", 168, 8), ("tcpi_delivered", 192, 4), ("tcpi_bytes_sent", 200, 8),
        ("tcpi_rcv_ooopack", 224, 4), ("tcpi_snd_wnd", 228, 4), ("tcpi_rehash", 236, 4), ("tcpi_total_rto", 240, 2),
        ("tcpi_total_rto_time", 244, 4),
    ):  # fmt: skip
        assert info[name] == int.from_bytes(bytes(range(offset, offset + size)), "little"), name
    assert TCP_INFO_LENGTH == 280


def test_bit_fields():
    last = struct.pack("=I", 0x12345 << 8 | 0x9E)
    info = tcp_info(bytes(6) + bytes([0x87, 0x05]) + bytes(TCP_INFO_LENGTH - 12) + last)
    assert (info["tcpi_snd_wscale"], info["tcpi_rcv_wscale"]) == (7, 8)
    assert (info["tcpi_delivery_rate_app_limited"], info["tcpi_fastopen_client_fail"]) == (1, 2)
    assert (info["tcpi_ecn_mode"], info["tcpi_accecn_opt_seen"], info["tcpi_accecn_fail_mode"]) == (2, 3, 9)
    assert info["tcpi_options2"] == 0x12345


def test_what_a_shorter_structure_does_not_have_is_0():
    assert tcp_info(b"\1")["tcpi_state"] == 1
    assert set(tcp_info(b"").values()) == {0}


def test_other_structures():
    assert tcp_cc_info(b"") == {}
    bbr = tcp_cc_info(struct.pack("=IIIII", 1, 2, 3, 4, 5))
    assert (bbr["bbr_bw"], bbr["bbr_min_rtt"], bbr["bbr_cwnd_gain"]) == (1 | 2 << 32, 3, 5)
    dctcp = tcp_cc_info(struct.pack("=HHIII", 1, 0, 1024, 7, 9))
    assert (dctcp["dctcp_enabled"], dctcp["dctcp_alpha"], dctcp["dctcp_ab_tot"]) == (1, 1024, 9)
    assert "bbr_bw" not in dctcp
    memory = so_meminfo(struct.pack("=9I", *range(9)))
    assert (memory["SK_MEMINFO_RCVBUF"], memory["SK_MEMINFO_DROPS"], SO_MEMINFO_LENGTH) == (1, 8, 36)
