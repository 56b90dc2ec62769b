"""The least number of slots a model can run with, checked once at start. Knows no slot states."""

from __future__ import annotations

from moeflux.errors import MoefluxError


class SlotFloorError(MoefluxError, ValueError):
    """Memory for fewer slots than one step needs.

    `wanted_slots`, `got_slots`, `wanted_nbytes`, `got_nbytes` say so in numbers.
    """

    def __init__(
        self, wanted_slots: int, got_slots: int, wanted_nbytes: int, got_nbytes: int
    ) -> None:
        super().__init__(
            f"expert slots need at least {wanted_nbytes} bytes ({wanted_slots} slots of "
            f"{wanted_nbytes // wanted_slots} bytes), got {got_nbytes} bytes ({got_slots} slots)"
        )
        self.wanted_slots = wanted_slots
        self.got_slots = got_slots
        self.wanted_nbytes = wanted_nbytes
        self.got_nbytes = got_nbytes


def required_slots(top_k: int, n_leases: int = 1) -> int:
    """top_k for every lease that is held when an acquire happens, the new one included.

    Decode holds one: the mixer of layer L+1 runs behind the experts of layer L on the same queue,
    so once its router logits are on the host the slots of layer L are read no more, and they are
    released before layer L+1 acquires. A caller that acquires before it releases holds two, such
    as prefill in overlapped waves of top_k experts.
    """
    if top_k < 1 or n_leases < 1:
        raise ValueError(f"top_k and n_leases must be at least 1, got {top_k} and {n_leases}")
    return top_k * n_leases


def check_floor(pool_nbytes: int, slot_nbytes: int, top_k: int, n_leases: int = 1) -> int:
    """The number of slots of slot_nbytes that fit into pool_nbytes.

    Raises SlotFloorError for fewer than required_slots(top_k, n_leases).
    """
    if slot_nbytes < 1:
        raise ValueError(f"slot_nbytes must be at least 1, got {slot_nbytes}")
    wanted = required_slots(top_k, n_leases)
    got = max(0, pool_nbytes) // slot_nbytes
    if got < wanted:
        raise SlotFloorError(wanted, got, wanted * slot_nbytes, pool_nbytes)
    return got
