"""Drop reasons: one number and one name each."""

from __future__ import annotations

from usernet.skbuff.dropreason import DropReason


def test_consumed_is_no_drop():
    assert DropReason.CONSUMED.value == 0


def test_each_has_a_number_of_its_own():
    assert [reason.value for reason in DropReason] == list(range(len(DropReason)))
    assert len(DropReason.__members__) == len(DropReason)  # no name is another's alias


def test_linux_names():
    for name in ("NO_SOCKET", "SOCKET_RCVBUFF", "TCP_CSUM", "NETFILTER_DROP", "NEIGH_QUEUEFULL", "TCP_OFOMERGE"):
        assert DropReason[name].name == name
