"""Counters (MIBs) under the names of the RFCs and of Linux, one set per stack.

A counter is an attribute with a default of 0 on the class, so that a counter never touched costs nothing:
`mib.tcp.RetransSegs += 1` on the data path, `stack.mib["Tcp"]["RetransSegs"]` for people (/proc/net/snmp, netstat).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import final

from usernet.core.native import mypyc_attr


def _names(group: type) -> Collection[str]:
    """The counters of a group, in the order of their definition, interpreted or compiled."""
    names: Collection[str] = getattr(group, "__mypyc_attrs__", ()) or group.__annotations__
    return names


@mypyc_attr(allow_interpreted_subclasses=True)
class MibGroup:
    """One line of /proc/net/snmp or netstat, readable as a mapping of counter names to values."""

    def __getitem__(self, name: str) -> int:
        if name not in _names(type(self)):
            raise KeyError(f"no counter named {name!r} in {type(self).__name__}")
        value: int = getattr(self, name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(_names(type(self)))

    def __len__(self) -> int:
        return len(_names(type(self)))

    def increment(self, name: str, by: int = 1) -> None:
        """Add to a counter whose name is computed; KeyError where there is none of that name."""
        setattr(self, name, self[name] + by)


@final
class IpMib(MibGroup):
    """RFC 4293; /proc/net/snmp"""

    Forwarding: int = 0
    DefaultTTL: int = 0
    InReceives: int = 0
    InHdrErrors: int = 0
    InAddrErrors: int = 0
    ForwDatagrams: int = 0
    InUnknownProtos: int = 0
    InDiscards: int = 0
    InDelivers: int = 0
    OutRequests: int = 0
    OutDiscards: int = 0
    OutNoRoutes: int = 0
    ReasmTimeout: int = 0
    ReasmReqds: int = 0
    ReasmOKs: int = 0
    ReasmFails: int = 0
    FragOKs: int = 0
    FragFails: int = 0
    FragCreates: int = 0
    OutTransmits: int = 0


@final
class IcmpMib(MibGroup):
    """RFC 4293; /proc/net/snmp"""

    InMsgs: int = 0
    InErrors: int = 0
    InCsumErrors: int = 0
    InDestUnreachs: int = 0
    InTimeExcds: int = 0
    InParmProbs: int = 0
    InSrcQuenchs: int = 0
    InRedirects: int = 0
    InEchos: int = 0
    InEchoReps: int = 0
    InTimestamps: int = 0
    InTimestampReps: int = 0
    InAddrMasks: int = 0
    InAddrMaskReps: int = 0
    OutMsgs: int = 0
    OutErrors: int = 0
    OutRateLimitGlobal: int = 0
    OutRateLimitHost: int = 0
    OutDestUnreachs: int = 0
    OutTimeExcds: int = 0
    OutParmProbs: int = 0
    OutSrcQuenchs: int = 0
    OutRedirects: int = 0
    OutEchos: int = 0
    OutEchoReps: int = 0
    OutTimestamps: int = 0
    OutTimestampReps: int = 0
    OutAddrMasks: int = 0
    OutAddrMaskReps: int = 0


@final
class TcpMib(MibGroup):
    """RFC 4022; /proc/net/snmp"""

    ActiveOpens: int = 0
    PassiveOpens: int = 0
    AttemptFails: int = 0
    EstabResets: int = 0
    CurrEstab: int = 0
    InSegs: int = 0
    OutSegs: int = 0
    RetransSegs: int = 0
    InErrs: int = 0
    OutRsts: int = 0
    InCsumErrors: int = 0


@final
class UdpMib(MibGroup):
    """RFC 4113; /proc/net/snmp"""

    InDatagrams: int = 0
    NoPorts: int = 0
    InErrors: int = 0
    OutDatagrams: int = 0
    RcvbufErrors: int = 0
    SndbufErrors: int = 0
    InCsumErrors: int = 0
    IgnoredMulti: int = 0
    MemErrors: int = 0


@final
class IpExtMib(MibGroup):
    """/proc/net/netstat"""

    InNoRoutes: int = 0
    InTruncatedPkts: int = 0
    InMcastPkts: int = 0
    OutMcastPkts: int = 0
    InBcastPkts: int = 0
    OutBcastPkts: int = 0
    InOctets: int = 0
    OutOctets: int = 0
    InMcastOctets: int = 0
    OutMcastOctets: int = 0
    InBcastOctets: int = 0
    OutBcastOctets: int = 0
    InCsumErrors: int = 0
    InNoECTPkts: int = 0
    InECT1Pkts: int = 0
    InECT0Pkts: int = 0
    InCEPkts: int = 0
    ReasmOverlaps: int = 0


@final
class TcpExtMib(MibGroup):
    """/proc/net/netstat"""

    SyncookiesSent: int = 0
    SyncookiesRecv: int = 0
    SyncookiesFailed: int = 0
    EmbryonicRsts: int = 0
    PruneCalled: int = 0
    RcvPruned: int = 0
    OfoPruned: int = 0
    OutOfWindowIcmps: int = 0
    LockDroppedIcmps: int = 0
    ArpFilter: int = 0
    TW: int = 0
    TWRecycled: int = 0
    TWKilled: int = 0
    PAWSActive: int = 0
    PAWSEstab: int = 0
    BeyondWindow: int = 0
    TSEcrRejected: int = 0
    PAWSOldAck: int = 0
    PAWSTimewait: int = 0
    DelayedACKs: int = 0
    DelayedACKLocked: int = 0
    DelayedACKLost: int = 0
    ListenOverflows: int = 0
    ListenDrops: int = 0
    TCPHPHits: int = 0
    TCPPureAcks: int = 0
    TCPHPAcks: int = 0
    TCPRenoRecovery: int = 0
    TCPSackRecovery: int = 0
    TCPSACKReneging: int = 0
    TCPSACKReorder: int = 0
    TCPRenoReorder: int = 0
    TCPTSReorder: int = 0
    TCPFullUndo: int = 0
    TCPPartialUndo: int = 0
    TCPDSACKUndo: int = 0
    TCPLossUndo: int = 0
    TCPLostRetransmit: int = 0
    TCPRenoFailures: int = 0
    TCPSackFailures: int = 0
    TCPLossFailures: int = 0
    TCPFastRetrans: int = 0
    TCPSlowStartRetrans: int = 0
    TCPTimeouts: int = 0
    TCPLossProbes: int = 0
    TCPLossProbeRecovery: int = 0
    TCPRenoRecoveryFail: int = 0
    TCPSackRecoveryFail: int = 0
    TCPRcvCollapsed: int = 0
    TCPBacklogCoalesce: int = 0
    TCPDSACKOldSent: int = 0
    TCPDSACKOfoSent: int = 0
    TCPDSACKRecv: int = 0
    TCPDSACKOfoRecv: int = 0
    TCPAbortOnData: int = 0
    TCPAbortOnClose: int = 0
    TCPAbortOnMemory: int = 0
    TCPAbortOnTimeout: int = 0
    TCPAbortOnLinger: int = 0
    TCPAbortFailed: int = 0
    TCPMemoryPressures: int = 0
    TCPMemoryPressuresChrono: int = 0
    TCPSACKDiscard: int = 0
    TCPDSACKIgnoredOld: int = 0
    TCPDSACKIgnoredNoUndo: int = 0
    TCPSpuriousRTOs: int = 0
    TCPMD5NotFound: int = 0
    TCPMD5Unexpected: int = 0
    TCPMD5Failure: int = 0
    TCPSackShifted: int = 0
    TCPSackMerged: int = 0
    TCPSackShiftFallback: int = 0
    TCPBacklogDrop: int = 0
    PFMemallocDrop: int = 0
    TCPMinTTLDrop: int = 0
    TCPDeferAcceptDrop: int = 0
    IPReversePathFilter: int = 0
    TCPTimeWaitOverflow: int = 0
    TCPReqQFullDoCookies: int = 0
    TCPReqQFullDrop: int = 0
    TCPRetransFail: int = 0
    TCPRcvCoalesce: int = 0
    TCPOFOQueue: int = 0
    TCPOFODrop: int = 0
    TCPOFOMerge: int = 0
    TCPChallengeACK: int = 0
    TCPSYNChallenge: int = 0
    TCPFastOpenActive: int = 0
    TCPFastOpenActiveFail: int = 0
    TCPFastOpenPassive: int = 0
    TCPFastOpenPassiveFail: int = 0
    TCPFastOpenListenOverflow: int = 0
    TCPFastOpenCookieReqd: int = 0
    TCPFastOpenBlackhole: int = 0
    TCPSpuriousRtxHostQueues: int = 0
    BusyPollRxPackets: int = 0
    TCPAutoCorking: int = 0
    TCPFromZeroWindowAdv: int = 0
    TCPToZeroWindowAdv: int = 0
    TCPWantZeroWindowAdv: int = 0
    TCPSynRetrans: int = 0
    TCPOrigDataSent: int = 0
    TCPHystartTrainDetect: int = 0
    TCPHystartTrainCwnd: int = 0
    TCPHystartDelayDetect: int = 0
    TCPHystartDelayCwnd: int = 0
    TCPACKSkippedSynRecv: int = 0
    TCPACKSkippedPAWS: int = 0
    TCPACKSkippedSeq: int = 0
    TCPACKSkippedFinWait2: int = 0
    TCPACKSkippedTimeWait: int = 0
    TCPACKSkippedChallenge: int = 0
    TCPWinProbe: int = 0
    TCPKeepAlive: int = 0
    TCPMTUPFail: int = 0
    TCPMTUPSuccess: int = 0
    TCPDelivered: int = 0
    TCPDeliveredCE: int = 0
    TCPAckCompressed: int = 0
    TCPZeroWindowDrop: int = 0
    TCPRcvQDrop: int = 0
    TCPWqueueTooBig: int = 0
    TCPFastOpenPassiveAltKey: int = 0
    TcpTimeoutRehash: int = 0
    TcpDuplicateDataRehash: int = 0
    TCPDSACKRecvSegs: int = 0
    TCPDSACKIgnoredDubious: int = 0
    TCPMigrateReqSuccess: int = 0
    TCPMigrateReqFailure: int = 0
    TCPPLBRehash: int = 0
    TCPAORequired: int = 0
    TCPAOBad: int = 0
    TCPAOKeyNotFound: int = 0
    TCPAOGood: int = 0
    TCPAODroppedIcmps: int = 0


@final
class IcmpMsgMib(MibGroup):
    """ICMP messages by type number, such as OutType3 (/proc/net/snmp IcmpMsg)."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def __getitem__(self, name: str) -> int:
        return self._counts.get(name, 0)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._counts))

    def __len__(self) -> int:
        return len(self._counts)

    def increment(self, name: str, by: int = 1) -> None:
        self._counts[name] = self._counts.get(name, 0) + by


@final
class Mib:
    """All counters of one stack. By attribute on the data path, by the group's name for people."""

    def __init__(self) -> None:
        self.ip = IpMib()
        self.icmp = IcmpMib()
        self.tcp = TcpMib()
        self.udp = UdpMib()
        self.udp_lite = UdpMib()
        self.ip_ext = IpExtMib()
        self.tcp_ext = TcpExtMib()
        self.icmp_msg = IcmpMsgMib()
        self._groups: dict[str, MibGroup] = {
            "Ip": self.ip,
            "Icmp": self.icmp,
            "Tcp": self.tcp,
            "Udp": self.udp,
            "UdpLite": self.udp_lite,
            "IpExt": self.ip_ext,
            "TcpExt": self.tcp_ext,
            "IcmpMsg": self.icmp_msg,
        }

    def __getitem__(self, name: str) -> MibGroup:
        group = self._groups.get(name)
        if group is None:
            raise KeyError(f"no group of counters named {name!r}; there are: {', '.join(self._groups)}")
        return group

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def register(self, name: str, group: MibGroup) -> None:
        """Add a layer's own group."""
        self._groups[name] = group
