"""TCP's settings in one namespace: net.ipv4.tcp_*, and what Linux has as parameters of modules (ip-sysctl.rst;
Linux: sysctl_net_ipv4.c)."""

from __future__ import annotations

from functools import partial

from usernet.core.sysctl import INT_MAX, SysctlTable
from usernet.net.pernet import Net
from usernet.net.protocols import NetProtocol
from usernet.transport.tcp.congestion import base as congestion
from usernet.transport.tcp.const import MSEC
from usernet.transport.tcp.fastopen import format_keys, parse_keys


class TcpSettings(NetProtocol):
    """The part of `Tcp` that is its sysctls, net.ipv4.tcp_* (ip-sysctl.rst), with Linux's defaults."""

    def __init__(self, net: Net) -> None:
        self.tcp_sack: int = 1
        self.tcp_dsack: int = 1
        self.tcp_timestamps: int = 1
        self.tcp_window_scaling: int = 1
        self.tcp_recovery: int = 1
        self.tcp_early_retrans: int = 3
        self.tcp_frto: int = 2
        self.tcp_reordering: int = 3
        self.tcp_max_reordering: int = 300
        self.tcp_retrans_collapse: int = 1
        self.rcv_coalesce: bool = True
        """Whether small segments are joined as they arrive. Linux does not where a capture holds a copy of them."""
        self.tcp_retries1: int = 3
        self.tcp_retries2: int = 15
        self.tcp_syn_retries: int = 6
        self.tcp_syn_linear_timeouts: int = 4
        self.tcp_synack_retries: int = 5
        self.tcp_orphan_retries: int = 0
        self.tcp_max_orphans: int = 131072
        self.tcp_max_tw_buckets: int = 131072
        self.tcp_fin_timeout: int = 60
        self.tcp_tw_reuse: int = 2
        self.tcp_tw_reuse_delay: int = 1000
        self.tcp_max_syn_backlog: int = 2048
        self.tcp_syncookies: int = 1
        self.tcp_reflect_tos: int = 0
        self.tcp_migrate_req: int = 0
        self.tcp_rfc1337: int = 0
        self.tcp_stdurg: int = 0
        self.tcp_abort_on_overflow: int = 0
        self.tcp_keepalive_time: int = 7200
        self.tcp_keepalive_intvl: int = 75
        self.tcp_keepalive_probes: int = 9
        self.tcp_rmem: tuple[int, ...] = (4096, 131072, 33554432)
        self.tcp_wmem: tuple[int, ...] = (4096, 16384, 4194304)
        self.tcp_moderate_rcvbuf: int = 1
        self.tcp_app_win: int = 31
        self.tcp_shrink_window: int = 0
        self.tcp_workaround_signed_windows: int = 0
        self.tcp_mtu_probing: int = 0
        self.tcp_base_mss: int = 1024
        self.tcp_mtu_probe_floor: int = 48
        self.tcp_min_snd_mss: int = 48
        self.tcp_probe_interval: int = 600
        self.tcp_probe_threshold: int = 8
        self.tcp_no_metrics_save: int = 0
        self.tcp_no_ssthresh_metrics_save: int = 1
        self.tcp_slow_start_after_idle: int = 1
        self.tcp_newcwv: int = 0
        self.tcp_thin_linear_timeouts: int = 0
        self.tcp_limit_output_bytes: int = 4194304
        self.tcp_notsent_lowat: int = 0xFFFFFFFF
        self.tcp_autocorking: int = 1
        self.tcp_min_tso_segs: int = 2
        self.tcp_tso_win_divisor: int = 3
        self.tcp_tso_rtt_log: int = 9
        self.tcp_pacing_ss_ratio: int = 200
        self.tcp_pacing_ca_ratio: int = 120
        self.tcp_min_rtt_wlen: int = 300
        self.tcp_rto_min_us: int = 200_000
        self.tcp_rto_max_ms: int = 120_000
        self.tcp_comp_sack_delay_ns: int = 1_000_000
        self.tcp_comp_sack_nr: int = 44
        self.tcp_pingpong_thresh: int = 1
        self.tcp_challenge_ack_limit: int = INT_MAX
        self.tcp_invalid_ratelimit: int = 500
        self.tcp_ecn: int = 2
        self.tcp_ecn_fallback: int = 1
        self.tcp_ecn_option: int = 2
        self.tcp_ecn_option_beacon: int = 3
        self.tcp_fastopen: int = 1
        self.tcp_fastopen_key: str = format_keys([])
        self.tcp_fastopen_blackhole_timeout_sec: int = 0
        self.tcp_congestion_control: str = "cubic"
        self.cubic_initial_ssthresh: int = 0
        self.cubic_fast_convergence: int = 1
        self.cubic_tcp_friendliness: int = 1
        self.cubic_hystart: int = 1
        self.cubic_hystart_detect: int = 3
        self.cubic_hystart_low_window: int = 16
        self.cubic_hystart_ack_delta_us: int = 2000
        self.cubic_hystart_plus_plus: int = 0
        self.dctcp_shift_g: int = 4
        self.dctcp_alpha_on_init: int = 1024
        congestion.CongestionNames(net)
        net.sysctl.later(partial(self._publish, net.sysctl))
        self.fastopen_keys: list[bytes] = []
        self.tfo_disable_times: int = 0
        self.tfo_disable_stamp: int = 0
        self.rto_max: int = self.tcp_rto_max_ms * MSEC
        """The same in ns: one number for all sockets."""

    def _publish(self, table: SysctlTable) -> None:
        bounds = {
            "tcp_retries1": (0, 255), "tcp_syn_retries": (1, 127), "tcp_synack_retries": (0, 255),
            "tcp_syn_linear_timeouts": (0, 127), "tcp_early_retrans": (0, 4), "tcp_app_win": (0, 31),
            "tcp_min_tso_segs": (1, 255), "tcp_pacing_ss_ratio": (0, 1000), "tcp_pacing_ca_ratio": (0, 1000),
            "tcp_min_snd_mss": (48, 65535), "tcp_mtu_probe_floor": (48, 65535), "tcp_comp_sack_nr": (0, 255),
            "tcp_no_metrics_save": (0, 255), "tcp_no_ssthresh_metrics_save": (0, 1),
            "tcp_mtu_probing": (0, 255), "tcp_probe_interval": (0, 4294967), "tcp_tso_rtt_log": (0, 31),
            "tcp_tso_win_divisor": (0, 255), "tcp_shrink_window": (0, 1), "tcp_moderate_rcvbuf": (0, 255),
            "tcp_rto_max_ms": (1000, 120_000), "tcp_rto_min_us": (1, INT_MAX), "tcp_min_rtt_wlen": (0, 86400),
            "tcp_pingpong_thresh": (1, 255), "tcp_notsent_lowat": (0, 0xFFFFFFFF), "tcp_rmem": (1, INT_MAX),
            "tcp_wmem": (1, INT_MAX), "tcp_ecn": (0, 5), "tcp_ecn_fallback": (0, 1), "tcp_ecn_option": (0, 3),
            "tcp_ecn_option_beacon": (0, 63), "dctcp_shift_g": (0, 10),
            "tcp_reflect_tos": (0, 1), "tcp_syncookies": (0, 2), "tcp_tw_reuse": (0, 2),
            "tcp_tw_reuse_delay": (1, 60_000), "tcp_migrate_req": (0, 1), "tcp_orphan_retries": (0, 255),
        }  # fmt: skip
        hooks = {
            "tcp_fastopen_key": self._fastopen_key_changed,
            "tcp_fastopen_blackhole_timeout_sec": self._blackhole_timeout_changed,
            "tcp_rto_max_ms": self._rto_max_changed,
        }
        for name in dir(self):
            if name == "tcp_congestion_control":
                table.register(f"net.ipv4.{name}", self, choices=congestion.available)
            elif name.startswith("cubic_"):
                # Parameters of the module tcp_cubic, here each namespace's own.
                table.register(f"module.tcp_cubic.{name[6:]}", self, name)
            elif name.startswith("dctcp_"):
                low, high = bounds.get(name, (0, 0xFFFFFFFF))
                table.register(f"module.tcp_dctcp.{name}", self, name, low=low, high=high)
            elif name.startswith("tcp_"):
                low, high = bounds.get(name, (0, INT_MAX))
                table.register(f"net.ipv4.{name}", self, low=low, high=high, on_change=hooks.get(name))

    def _fastopen_key_changed(self) -> None:
        try:
            self.fastopen_keys = parse_keys(self.tcp_fastopen_key)
        except ValueError:
            self.tcp_fastopen_key = format_keys(self.fastopen_keys)
            raise
        self.tcp_fastopen_key = format_keys(self.fastopen_keys)

    def _rto_max_changed(self) -> None:
        self.rto_max = self.tcp_rto_max_ms * MSEC

    def _blackhole_timeout_changed(self) -> None:
        self.tfo_disable_times = 0
