#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Claims of memory backends, staked before they allocate: what only a QEMU with Ballast inside can do.

The ledger's admission is static, so what a case sees is its own doing.  No guest runs.
"""

import resource
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'lib'))

# pylint: disable=wrong-import-position
from ballast import paths, tap, virtio                           # noqa: E402
from ballast.host import MIB, Ledger                             # noqa: E402
from ballast.vm import VM, ExecuteError, wait_until              # noqa: E402

NAME = 'vm'


def need_series() -> None:
    """Skip on the distribution's QEMU."""
    tap.need(paths.FLAVOUR == 'series', 'a QEMU with Ballast inside (BALLAST_FLAVOUR=series)')


def ledger_args(ledger: Ledger, **options: str) -> List[str]:
    """-object memory-ledger."""
    words = [f'{key}={value}' for key, value in {'name': NAME, **options}.items()]
    return ['-object', ','.join(['memory-ledger,id=l0', f'path={ledger.path}', *words])]


def backend(ident: str, size_mib: int, *more: str) -> List[str]:
    """-object memory-backend-ram."""
    return ['-object', ','.join(['memory-backend-ram', f'id={ident}', f'size={size_mib}M', *more])]


def machine(ram_mib: int = 64, *more: str) -> List[str]:
    """One that has room for more memory."""
    return ['-M', 'q35' + ''.join(f',{word}' for word in more), '-accel', 'tcg', '-S',
            '-m', f'{ram_mib}M,slots=4,maxmem=4G']


def run_refused(args: List[str]) -> str:
    """QEMU ends by itself with status 1; returns the one line that it said."""
    done = subprocess.run([paths.QEMU, '-display', 'none', '-nodefaults', *args], capture_output=True, text=True,
                          timeout=60, check=False)
    tap.equal(done.returncode, 1, 'exit status')
    tap.equal(len(done.stderr.strip().splitlines()), 1, f'lines in {done.stderr!r}')
    return done.stderr.strip()


def series_vm(args: List[str], wrapper: Sequence[str] = ()) -> VM:
    """A QEMU with Ballast inside, that takes part in no ledger but by `args`."""
    return VM(args, plugin={}, wrapper=wrapper)


def claims(vm: VM) -> Dict[Any, int]:
    """(node or None, page size) to bytes."""
    lines = vm.qmp('query-memory-ledger')['claims']
    return {(line.get('node'), line['page-size']): line['claimed'] for line in lines}


def failure(vm: VM, command: str, **args: Any) -> str:
    """The words of a command that must fail."""
    try:
        vm.qmp(command, {key.replace('_', '-'): value for key, value in args.items()})
    except ExecuteError as error:
        return str(error)
    raise AssertionError(f'{command} did not fail')


def object_add(vm: VM, ident: str, size_mib: int, **more: Any) -> None:
    """A backend at run time."""
    vm.qmp('object-add', {'qom-type': 'memory-backend-ram', 'id': ident, 'size': size_mib * MIB, **more})


def settles(ledger: Ledger, mib: int) -> None:
    """The claim in the ledger becomes this much."""
    wait_until(lambda: ledger.claimed(NAME) == mib * MIB, f'a claim of {mib} MiB, not {ledger.claimed(NAME) // MIB}')


@tap.case('a backend that does not fit is refused before a page is allocated')
def refused_before_prealloc() -> None:
    need_series()
    with Ledger('256M') as ledger:
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        said = run_refused([*machine(64), *ledger_args(ledger), *backend('m0', 1024, 'prealloc=on')])
        after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        assert 'refused' in said and '1.06 GiB' in said and '832 MiB missing' in said, said
        assert max(before, after) < 512 * 1024, f'{after} KiB were resident'
        tap.equal(ledger.participants(), [], 'who is left')


@tap.case('backends and RAM of the command line are one claim')
def one_claim() -> None:
    need_series()
    with Ledger('500M') as ledger:
        said = run_refused([*machine(100), *ledger_args(ledger), *backend('m0', 200), *backend('m1', 300)])
        assert 'claim of 600 MiB' in said and '100 MiB missing' in said, said
        with series_vm([*machine(100), *ledger_args(ledger), *backend('m0', 200), *backend('m1', 200)]) as vm:
            vm.launch()
            tap.equal(claims(vm), {(None, 4096): 500 * MIB})
            tap.equal(ledger.claimed(NAME), 500 * MIB, 'claimed')


@tap.case('a backend that is the RAM is counted once')
def ram_backend() -> None:
    need_series()
    with Ledger('500M') as ledger:
        args = [*machine(200, 'memory-backend=m0'), *ledger_args(ledger), *backend('m0', 200)]
        with series_vm(args) as vm:
            vm.launch()
            tap.equal(ledger.claimed(NAME), 200 * MIB, 'claimed')
        args = [*machine(200), *ledger_args(ledger), *backend('m0', 200), '-numa', 'node,memdev=m0']
        with series_vm(args) as vm:
            vm.launch()
            tap.equal(ledger.claimed(NAME), 200 * MIB, 'claimed')


@tap.case('a bound backend is claimed on its node')
def bound() -> None:
    need_series()
    with Ledger('500M') as ledger:
        args = [*machine(64), *ledger_args(ledger), *backend('m0', 100, 'host-nodes=0', 'policy=bind')]
        with series_vm(args) as vm:
            vm.launch()
            tap.equal(claims(vm), {(None, 4096): 64 * MIB, (0, 4096): 100 * MIB})


@tap.case('backends of 64 kinds of memory are the ledger\'s to judge; more are refused before it is asked')
def many_kinds() -> None:
    need_series()
    with Ledger('500M') as ledger:
        args = [*machine(64), *ledger_args(ledger)]             # the machine's RAM is of the first kind
        for node in range(63):
            args += backend(f'm{node}', 1, f'host-nodes={node}', 'policy=bind')
        said = run_refused(args)
        assert 'there is no node 1 in this ledger' in said, said
        said = run_refused([*args, *backend('m63', 1, 'host-nodes=63', 'policy=bind')])
        assert 'more than 64 kinds of memory' in said, said


@tap.case('a backend of huge pages is claimed in its page size')
def huge() -> None:
    need_series()
    with Ledger('500M') as ledger:
        said = run_refused([*machine(64), *ledger_args(ledger), '-object',
                            'memory-backend-memfd,id=m0,size=64M,hugetlb=on,hugetlbsize=2M'])
        assert '2 MiB' in said, said


@tap.case('object-add that does not fit fails, and nothing changes')
def hotplug_refused() -> None:
    need_series()
    with Ledger('256M') as ledger, series_vm([*machine(64), *ledger_args(ledger)]) as vm:
        vm.launch()
        said = failure(vm, 'object-add', qom_type='memory-backend-ram', id='m0', size=200 * MIB)
        assert "'m0'" in said and '8 MiB missing' in said, said
        tap.equal(ledger.claimed(NAME), 64 * MIB, 'claimed')
        object_add(vm, 'm0', 192)
        tap.equal(ledger.claimed(NAME), 256 * MIB, 'claimed')
        vm.qmp('device_add', driver='pc-dimm', id='d0', memdev='m0')
        tap.equal(claims(vm), {(None, 4096): 256 * MIB})


@tap.case('object-add of preallocated memory that does not fit allocates nothing')
def hotplug_prealloc() -> None:
    need_series()
    with Ledger('256M') as ledger, series_vm([*machine(64), *ledger_args(ledger)]) as vm:
        vm.launch()
        status = Path(f'/proc/{vm.get_pid()}/status')

        def peak_kib() -> int:
            return int(status.read_text('ascii').split('VmHWM:')[1].split()[0])
        before = peak_kib()
        failure(vm, 'object-add', qom_type='memory-backend-ram', id='m0', size=1024 * MIB, prealloc=True)
        assert peak_kib() - before < 64 * 1024, f'{peak_kib() - before} KiB more were resident'


@tap.case('a backend that is deleted gives its claim back')
def deleted() -> None:
    need_series()
    with Ledger('256M') as ledger, series_vm([*machine(64), *ledger_args(ledger)]) as vm:
        vm.launch()
        for _ in range(3):
            object_add(vm, 'm0', 192)
            tap.equal(ledger.claimed(NAME), 256 * MIB, 'claimed')
            vm.qmp('object-del', id='m0')
            settles(ledger, 64)


@tap.case('an allocation that fails gives its claim back')
def allocation_fails() -> None:
    need_series()
    with Ledger('256M') as ledger, series_vm([*machine(64), *ledger_args(ledger)]) as vm:
        vm.launch()
        failure(vm, 'object-add', qom_type='memory-backend-file', id='m0', size=100 * MIB, mem_path='/nowhere/file')
        settles(ledger, 64)


@tap.case('claim=linked: only backends claim that name the ledger')
def linked() -> None:
    need_series()
    with Ledger('256M') as ledger:
        args = [*machine(64), *ledger_args(ledger, claim='linked'), *backend('m0', 512),
                *backend('m1', 128, 'ledger=l0')]
        with series_vm(args) as vm:
            vm.launch()
            tap.equal(ledger.claimed(NAME), 128 * MIB, 'claimed')
            object_add(vm, 'm2', 512)
            object_add(vm, 'm3', 64, ledger='l0')
            tap.equal(ledger.claimed(NAME), 192 * MIB, 'claimed')


@tap.case('a ledger that is not there is told by its name')
def unknown_ledger() -> None:
    need_series()
    with Ledger('256M') as ledger:
        said = run_refused([*machine(64), *ledger_args(ledger), *backend('m0', 64, 'ledger=l1')])
        assert 'l1' in said, said


@tap.case('a claim by hand stands for all backends')
def by_hand() -> None:
    need_series()
    with Ledger('512M') as ledger:
        args = [*machine(64), *ledger_args(ledger, claim='100M@0+200M'), *backend('m0', 1024)]
        with series_vm(args) as vm:
            vm.launch()
            tap.equal(claims(vm), {(0, 4096): 100 * MIB, (None, 4096): 200 * MIB})
        said = run_refused([*machine(64), *ledger_args(ledger, claim='100M+much')])
        assert 'claim=much' in said and 'SIZE[@NODE][/PAGESIZE]' in said, said


@tap.case('a second memory-ledger is refused, the first cannot be deleted or changed')
def one_ledger() -> None:
    need_series()
    with Ledger('256M') as ledger, series_vm([*machine(64), *ledger_args(ledger)]) as vm:
        vm.launch()
        said = failure(vm, 'object-add', qom_type='memory-ledger', id='l1', path=str(ledger.path))
        assert "'l0'" in said, said
        failure(vm, 'object-del', id='l0')
        said = failure(vm, 'qom-set', path='/objects/l0', property='path', value='/nowhere')
        assert 'cannot be changed' in said, said
        tap.equal(ledger.claimed(NAME), 64 * MIB, 'claimed')


@tap.case('memory-ledger without a path says what it needs')
def no_path() -> None:
    need_series()
    said = run_refused([*machine(64), '-object', 'memory-ledger,id=l0'])
    assert "'path'" in said and 'ballast run' in said, said


@tap.case('virtio-mem: the claim is what may be plugged')
def virtio_mem() -> None:
    need_series()
    with Ledger('512M') as ledger:
        args = [*machine(64), *ledger_args(ledger), *backend('m0', 2048, 'reserve=off'),
                '-device', 'virtio-mem-pci,id=vm0,memdev=m0,requested-size=64M']
        with series_vm(args) as vm:
            vm.launch()
            tap.equal(ledger.claimed(NAME), 128 * MIB, 'claimed')
            vm.qom_set('vm0', 'requested-size', 256 * MIB)
            tap.equal(ledger.claimed(NAME), 320 * MIB, 'claimed')
            said = failure(vm, 'qom-set', path='vm0', property='requested-size', value=512 * MIB)
            assert '64 MiB missing' in said, said
            tap.equal(vm.qom_get('vm0', 'requested-size'), 256 * MIB, 'requested-size')
            tap.equal(ledger.claimed(NAME), 320 * MIB, 'claimed')
            vm.qom_set('vm0', 'requested-size', 0)
            settles(ledger, 64)
        said = run_refused([*args[:-1], 'virtio-mem-pci,id=vm0,memdev=m0,requested-size=1G'])
        assert 'refused' in said, said


class MemDriver(virtio.Driver):
    """virtio-mem's driver: plugs and unplugs."""

    UNPLUGGED_INACCESSIBLE = 1 << 1
    _PLUG, _UNPLUG = 0, 1

    def _ask(self, request: int, offset: int, size: int) -> int:
        """The device's answer: 0 for done."""
        qtest = self.transport.qtest
        block, = struct.unpack('<Q', qtest.read(self.transport.config, 8))
        start, = struct.unpack('<Q', qtest.read(self.transport.config + 16, 8))
        asked, answer = self.base + 0x80000, self.base + 0x81000
        qtest.write(asked, struct.pack('<HxxxxxxQHxxxxxx', request, start + offset, size // block))
        self.queues['queue'].add([virtio.out(asked, 24), virtio.into(answer, 10)])
        self.queues['queue'].wait_idle()
        return int(struct.unpack('<H', qtest.read(answer, 2))[0])

    def plug(self, offset: int, size: int) -> int:
        """From `offset` of the device's memory."""
        return self._ask(self._PLUG, offset, size)

    def unplug(self, offset: int, size: int) -> int:
        """From `offset` of the device's memory."""
        return self._ask(self._UNPLUG, offset, size)


@tap.case('virtio-mem: plugged memory stays claimed while less is requested')
def virtio_mem_plugged() -> None:
    need_series()
    with Ledger('512M') as ledger:
        args = [*machine(64), *ledger_args(ledger), *backend('m0', 512, 'reserve=off'),
                '-device', 'virtio-mem-pci,id=vm0,memdev=m0']
        with series_vm(args) as vm:
            vm.launch()
            driver = MemDriver(virtio.find_pci(vm.qtest, virtio.MEM_ID), features=MemDriver.UNPLUGGED_INACCESSIBLE)
            vm.qom_set('vm0', 'requested-size', 256 * MIB)
            tap.equal(driver.plug(0, 256 * MIB), 0, 'answer to plug')
            tap.equal(vm.qom_get('vm0', 'size'), 256 * MIB, 'size')
            vm.qom_set('vm0', 'requested-size', 0)
            ledger.take('other', '192M')
            vm.qom_set('vm0', 'requested-size', 256 * MIB)      # needs nothing: it is plugged
            vm.qom_set('vm0', 'requested-size', 0)
            tap.equal(driver.unplug(0, 128 * MIB), 0, 'answer to unplug')
            settles(ledger, 192)
            tap.equal(driver.unplug(128 * MIB, 128 * MIB), 0, 'answer to unplug')
            settles(ledger, 64)


@tap.case('reserve=off that is no virtio-mem: claimed once it is in use, refusal shows as deficit')
def reserve_off() -> None:
    need_series()
    with Ledger('128M') as ledger, series_vm([*machine(64), *ledger_args(ledger)]) as vm:
        vm.launch()
        object_add(vm, 'm0', 128, reserve=False)
        tap.equal(ledger.claimed(NAME), 64 * MIB, 'claimed')
        vm.qmp('device_add', driver='pc-dimm', id='d0', memdev='m0')
        wait_until(lambda: vm.qmp('query-memory-ledger')['deficit'] == 128 * MIB, 'a deficit of 128 MiB')


@tap.case("a claim of 'ballast run' is inherited, with and without a memory-ledger")
def inherited() -> None:
    need_series()
    with Ledger('512M') as ledger:
        wrapper = [str(paths.CLI), 'run', '--ledger', str(ledger.path), '--name', NAME, '--claim', '256M', '--']
        for objects in ([], ['-object', 'memory-ledger,id=l0']):
            with series_vm([*machine(64), *objects], wrapper=wrapper) as vm:
                vm.launch()
                info = vm.qmp('query-memory-ledger')
                tap.equal((info['inherited'], claims(vm)), (True, {(None, 4096): 256 * MIB}))
                object_add(vm, 'm0', 512)
                tap.equal(ledger.claimed(NAME), 256 * MIB, 'claimed')


@tap.case('what a killed QEMU had claimed comes back')
def killed() -> None:
    need_series()
    with Ledger('256M') as ledger:
        with series_vm([*machine(64), *ledger_args(ledger), *backend('m0', 128, 'prealloc=on')]) as vm:
            vm.launch()
            tap.equal(ledger.claimed(NAME), 192 * MIB, 'claimed')
            vm.kill()
        wait_until(lambda: not ledger.participants(), 'the dead one to be swept')


if __name__ == '__main__':
    tap.main()
