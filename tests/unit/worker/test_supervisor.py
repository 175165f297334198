from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from notebook_accel.config import RunConfig
from notebook_accel.hardware.inventory import Inventory
from notebook_accel.launch.channels import Channels
from notebook_accel.launch.plan import make_plan
from notebook_accel.wire import frames
from notebook_accel.wire.control import (
    Interrupt,
    Interrupted,
    Kill,
    RankExited,
    RequestStop,
    Stacks,
    Supervising,
    SupervisorFailed,
    TellStacks,
)
from notebook_accel.worker import supervisor, system
from notebook_accel.worker.flags import Flags
from notebook_accel.worker.seat import Seat
from tests.unit.worker.forks import in_a_child
from tests.unit.worker.test_births import start_of

pytest.importorskip("torch.distributed")


def born(live: Callable[..., Any], *, with_flags: bool = False, listens: bool = True) -> Callable[..., int]:
    """Give birth to ranks that only do what a test needs, and can be interrupted once they are born."""

    def birth(seat: Seat, flags_file: int, strangers: list[int]) -> int:
        ready, say_ready = os.pipe()

        def be_a_rank() -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setpgid(0, 0)
            flags = Flags.of_file(flags_file, 2)
            if listens:
                signal.signal(system.STACK_SIGNAL, signal.SIG_IGN)
                flags.set_listening(seat.number)
            for descriptor in (*strangers, ready, say_ready):
                os.close(descriptor)
            live(*((seat, flags) if with_flags else (seat,)))
            os._exit(0)

        pid = in_a_child(be_a_rank)
        os.close(say_ready)
        os.read(ready, 1)  # ends when the child has closed its end
        os.close(ready)
        return pid

    return birth


class Supervised:
    """A supervisor in a fork of this process, and what it says."""

    def __init__(
        self,
        birth: Callable[..., int],
        ranks: int = 2,
        *,
        orphaned: bool = False,
        given_up: bool = False,
        **start: object,
    ) -> None:
        plan = make_plan(RunConfig(num_processes=ranks, devices="cpu"), Inventory.fake())
        self._channels = channels = Channels.open(plan, "run")
        self.control = channels.control
        self.control.settimeout(30)
        if given_up:
            self.control.shutdown(socket.SHUT_RDWR)
        message = start_of(world_size=ranks, port=channels.port, **start)
        parents = [os.getpid()]

        def supervise() -> None:
            for descriptor in channels.our_descriptors():
                os.close(descriptor)
            surroundings = supervisor.Surroundings(channels.supervisor_end, list(channels.theirs), None, parents[-1])
            supervisor.main(message, surroundings, birth)

        def end_before_it() -> None:
            parents.append(os.getpid())
            in_a_child(supervise)
            os._exit(0)

        self.pid = in_a_child(end_before_it if orphaned else supervise)
        channels.close_theirs()

    def messages(self) -> Iterator[object]:
        """Give what it says once it is there until it has ended."""
        try:
            assert frames.receive(self.control)[0] == Supervising()
            while True:
                yield frames.receive(self.control)[0]
        except EOFError:
            os.waitpid(self.pid, 0)
            self._channels.close_ours()


def test_it_says_how_each_rank_ended():
    def live(seat: Seat) -> None:
        if seat.number == 0:
            os._exit(3)
        os.kill(os.getpid(), signal.SIGKILL)

    exits = sorted(Supervised(born(live)).messages(), key=lambda exited: exited.rank)
    assert [(exited.rank, exited.exit_code, exited.ended_by_us) for exited in exits] == [(0, 3, False), (1, -9, False)]


def test_the_others_have_a_grace_when_one_has_died():
    def live(seat: Seat) -> None:
        if seat.number == 1:
            os._exit(3)
        signal.pause()

    first, second = Supervised(born(live), grace_seconds=0.1).messages()
    assert (first.rank, first.exit_code, first.ended_by_us) == (1, 3, False)
    assert (second.rank, second.exit_code, second.ended_by_us) == (0, -signal.SIGINT, True)
    assert second.at_seconds >= first.at_seconds + 0.1


def test_the_grace_begins_when_a_function_has_raised_however_long_its_process_takes_to_end():
    def live(seat: Seat, flags: Flags) -> None:
        if seat.number == 0:
            signal.signal(signal.SIGINT, lambda *_: os._exit(6 if flags.take_order(0) else 7))
            signal.pause()
        flags.set_failed(1)
        os.kill(os.getppid(), signal.SIGCHLD)
        while not flags.acknowledged(0):
            select.select([], [], [], 0.01)
        os._exit(3)

    supervised = Supervised(born(live, with_flags=True), grace_seconds=0.1)
    other, failed = sorted(supervised.messages(), key=lambda exited: exited.rank)
    assert (other.exit_code, other.ended_by_us) == (6, True)
    assert (failed.exit_code, failed.ended_by_us) == (3, False), "it had failed before"


def test_an_interrupt_is_for_functions_that_run_and_said_to_the_kernel():
    def live(seat: Seat, flags: Flags) -> None:
        if seat.number == 0:
            flags.set_finished(0)
            os.write(seat.output, b"x")
            signal.alarm(2)
        else:
            os.write(seat.output, b"x")
        signal.pause()

    supervised = Supervised(born(live, with_flags=True))
    for rank in supervised._channels.ranks:
        os.set_blocking(rank.output_end, True)
        assert os.read(rank.output_end, 1) == b"x"
    frames.send(supervised.control, Interrupt())
    said, first, second = supervised.messages()
    assert said == Interrupted(said.at_seconds, {1: ""}, timed_out=False)
    assert (first.rank, first.exit_code, first.ended_by_us) == (1, -signal.SIGINT, True)
    assert (second.rank, second.exit_code, second.ended_by_us) == (0, -signal.SIGALRM, False)


def test_a_request_to_stop_is_for_every_rank_and_interrupts_none():
    def live(seat: Seat, flags: Flags) -> None:
        while not flags.asked_to_stop(seat.number):
            select.select([], [], [], 0.01)
        os._exit(5)

    supervised = Supervised(born(live, with_flags=True))
    frames.send(supervised.control, RequestStop())
    exits = list(supervised.messages())
    assert sorted(exited.rank for exited in exits) == [0, 1]
    assert all((exited.exit_code, exited.ended_by_us) == (5, False) for exited in exits)


def test_a_rank_that_cannot_be_born_ends_those_that_were():
    read_end, write_end = os.pipe()

    def birth(seat: Seat, *rest: Any) -> int:
        if seat.number == 1:
            raise OSError(11, "no more processes")
        return born(lambda _: signal.pause())(seat, *rest)

    supervised = Supervised(birth)
    os.close(write_end)
    (message,) = supervised.messages()
    assert isinstance(message, SupervisorFailed)
    assert "no more processes" in message.traceback
    assert os.read(read_end, 1) == b"", "the rank that was born is gone too"
    os.close(read_end)


def test_a_run_that_was_given_up_before_gets_no_ranks():
    read_end, write_end = os.pipe()

    def birth(*_: Any) -> int:
        os.write(write_end, b"born")
        os._exit(9)

    supervised = Supervised(birth, given_up=True)
    os.close(write_end)
    assert list(supervised.messages()) == []
    assert os.read(read_end, 4) == b""
    os.close(read_end)


@pytest.mark.parametrize("how", ["order", "closed"])
def test_ranks_are_killed_when_they_are_ordered_to_or_the_kernel_has_closed(how: str):
    def live(_seat: Seat) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pause()

    supervised = Supervised(born(live))
    if how == "order":
        frames.send(supervised.control, Kill())
    else:
        supervised.control.shutdown(socket.SHUT_WR)
    exits = list(supervised.messages())
    assert sorted(exited.rank for exited in exits) == [0, 1]
    assert all((exited.exit_code, exited.ended_by_us) == (-9, True) for exited in exits)


def test_without_a_descriptor_of_the_kernel_its_end_is_seen_all_the_same():
    exits = list(Supervised(born(lambda _: signal.pause()), orphaned=True).messages())
    assert all((exited.exit_code, exited.ended_by_us) == (-9, True) for exited in exits)
    assert len(exits) == 2


def test_a_rank_that_has_not_come_to_the_function_is_not_asked_where_it_is_and_ended_at_once():
    birth = born(lambda _: signal.pause(), listens=False)
    timed_out, *exits = Supervised(birth, stop_at_seconds=0.0).messages()
    assert timed_out == Interrupted(timed_out.at_seconds, {}, timed_out=True)
    assert all((exited.exit_code, exited.ended_by_us) == (-signal.SIGKILL, True) for exited in exits)
    assert all(isinstance(exited, RankExited) for exited in exits)


def test_every_question_for_stacks_is_answered_with_its_number():
    supervised = Supervised(born(lambda _: signal.pause(), listens=False))
    for number in (7, 8):
        frames.send(supervised.control, TellStacks(number, all_threads=True))
    frames.send(supervised.control, Kill())
    first, second, *exits = supervised.messages()
    assert isinstance(first, Stacks)
    assert isinstance(second, Stacks)
    assert (first.number, second.number, len(exits)) == (7, 8, 2)
    assert first.stacks == second.stacks == {0: "", 1: ""}, "no rank says that it listens"
    assert sorted(first.computed) == [0, 1]
