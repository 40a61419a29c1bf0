#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest driver of guest/linux in a Linux guest: on QEMU's balloon and on Ballast's, whole and fragmented."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Sequence

from fixture import host, need_guests
from guest import BALLOON, MIB, STOCK_DEVICE, LinuxGuest
from ballast import paths, tap
from ballast.vm import wait_until

PAGE = 4096
MEMORY = 512 * MIB
TWO_NODES = ('-object', 'memory-backend-ram,id=m0,size=256M', '-object', 'memory-backend-ram,id=m1,size=256M',
             '-numa', 'node,nodeid=0,memdev=m0', '-numa', 'node,nodeid=1,memdev=m1')
LARGE = 1024 * MIB      # enough that CPUs help each other
TWO_CPUS = ('-smp', '2')
CPUS_ON_ONE = ('-object', 'memory-backend-ram,id=m0,size=640M', '-object', 'memory-backend-ram,id=m1,size=384M',
               '-numa', 'node,nodeid=0,memdev=m0,cpus=0-1', '-numa', 'node,nodeid=1,memdev=m1', *TWO_CPUS)
STEP = 256 * MIB        # the driver looks at its goal at least so often
ROUNDS = 12             # to catch a driver in the middle of inflating
DEBUGFS = '/sys/kernel/debug/ballast_balloon/*'
OURS = '/sys/bus/virtio/drivers/ballast_balloon'
STOCK = '/sys/bus/virtio/drivers/virtio_balloon'
HUGE = 9                # order of 2 MiB


def guest_with(name: str = 'vm', *, stock_device: bool = False, **options: Any) -> LinuxGuest:
    """A guest with our driver, not launched; on Ballast's device unless told otherwise."""
    need_guests()
    if stock_device:
        options['device'] = STOCK_DEVICE
    else:
        options.setdefault('plugin', {})
    return LinuxGuest(name, options.pop('memory', MEMORY), driver='ballast' + options.pop('append', ''), **options)


def state(guest: LinuxGuest) -> Dict[str, int]:
    """The driver's goal and counters."""
    lines = guest.run(f'cat {DEBUGFS}/state').split()
    return {key: int(value) for key, value in (line.split('=') for line in lines)}


class Node(Dict[str, str]):
    """A line of the driver's view."""

    @property
    def held(self) -> int:
        """Pages in the balloon."""
        return int(self['held'])

    @property
    def blocks(self) -> List[int]:
        """Blocks by order; the first are single pages."""
        return [int(number) for number in self['blocks'].split(',')]

    @property
    def whole(self) -> int:
        """Pages in blocks of 2 MiB or more."""
        return sum(number << order for order, number in enumerate(self.blocks) if order >= HUGE)


def nodes(guest: LinuxGuest) -> List[Node]:
    """What the driver holds of each node."""
    return [Node(word.split('=') for word in line.split() if '=' in word)
            for line in guest.run(f'cat {DEBUGFS}/nodes').splitlines()]


def meminfo(guest: LinuxGuest, name: str) -> int:
    """Bytes."""
    return int(guest.run(f"awk '/^{name}:/ {{ print $2 }}' /proc/meminfo")) * 1024


# -- QEMU's own device ------------------------------------------------------

@tap.case("QEMU's device: shrinks and grows, alike on both nodes")
def stock_device() -> None:
    """The guest's total follows, what it gave is in blocks, its files stay."""
    with guest_with(stock_device=True, extra=TWO_NODES) as guest:
        guest.start()
        tap.equal(state(guest)['ranges'], 0, 'node targets')
        total = meminfo(guest, 'MemTotal')
        guest.keep(32)
        guest.balloon(256 * MIB)
        held = nodes(guest)
        tap.note(str(held))
        tap.equal(sum(node.held for node in held), 256 * MIB // PAGE, 'pages')
        assert all(node.held >= 64 * MIB // PAGE for node in held), 'one node gave nearly all'
        assert sum(node.whole for node in held) > 200 * MIB // PAGE
        tap.equal(total - meminfo(guest, 'MemTotal'), 256 * MIB, 'fall of the total')
        guest.balloon(500 * MIB)
        guest.balloon(MEMORY)
        tap.equal(meminfo(guest, 'MemTotal'), total, 'total')
        guest.check_kept()
        guest.check_alive()


@tap.case("QEMU's device: statistics, free page reporting")
def statistics_and_reporting() -> None:
    """As a user of the kernel's driver has them."""
    with guest_with(stock_device=True, balloon={'free-page-reporting': 'on'}) as guest:
        guest.start()
        guest.vm.qom_set(BALLOON, 'guest-stats-polling-interval', 1)
        stats: Dict[str, int] = {}

        def fresh() -> bool:
            answer = guest.vm.qom_get(BALLOON, 'guest-stats')
            stats.update(answer['stats'])
            return bool(answer['last-update']) and state(guest)['stats'] >= 2

        wait_until(fresh, 'statistics')
        tap.note(str(stats))
        tap.equal(stats['stat-total-memory'], meminfo(guest, 'MemTotal'), 'total')
        for name in ('stat-free-memory', 'stat-available-memory', 'stat-disk-caches', 'stat-minor-faults'):
            assert 0 < stats[name] < 1 << 40, name
        guest.churn(64)
        wait_until(lambda: state(guest)['reported'] > 0, 'reports', 120)
        guest.check_alive()


@tap.case('unbound and bound again, and the other driver in between')
def rebind() -> None:
    """Each gives back all it had; the balloon's target stands."""
    with guest_with(stock_device=True) as guest:
        guest.start()
        free = meminfo(guest, 'MemFree')
        guest.balloon(256 * MIB)
        guest.run(f'cd {OURS} && echo virtio*[0-9] >/tmp/device && cat /tmp/device >unbind')
        tap.equal(guest.actual(), MEMORY, 'after unbinding')
        assert meminfo(guest, 'MemFree') > free - 16 * MIB, 'it kept memory'
        guest.run(f'cat /tmp/device >{OURS}/bind')
        wait_until(lambda: guest.actual() == 256 * MIB, 'the balloon')
        guest.run('rmmod ballast_balloon && insmod /lib/modules/virtio_balloon.ko')
        wait_until(lambda: guest.actual() == 256 * MIB, "the kernel's driver")
        guest.run(f'insmod /lib/modules/ballast_balloon.ko && test ! -e {OURS}/virtio*[0-9]')
        guest.run(f'cat /tmp/device >{STOCK}/unbind && cat /tmp/device >{OURS}/bind')
        wait_until(lambda: guest.actual() == 256 * MIB, 'our driver again')
        tap.equal(state(guest)['held'], 256 * MIB // PAGE, 'pages')
        guest.balloon(MEMORY)
        guest.check_alive()


# -- Ballast's device -------------------------------------------------------

def ask(guest: LinuxGuest, size: int, **more: Any) -> Dict[str, Any]:
    """balloon-node, and how it ended."""
    guest.vm.qmp('balloon-node', {'host-node': 0, 'bytes': size, **more})
    data = dict(guest.vm.wait_event('BALLOON_NODE_DONE', 120)['data'])
    tap.note(str(data))
    return data


@tap.case('node targets: in blocks, to the page, and back')
def node_targets() -> None:
    """The host's count of each guest node is the driver's."""
    with guest_with(extra=TWO_NODES) as guest:
        guest.start()
        tap.equal([node['proximity'] for node in nodes(guest)], ['0', '1'])
        size = 200 * MIB + 3 * PAGE
        done = ask(guest, size, exact=True)
        tap.equal((done['status'], done['request']['got']), ('reached', size))
        held = {int(node['node']): node.held * PAGE for node in nodes(guest)}
        tap.equal({part['guest-node']: part['bytes'] for part in done['request']['parts']}, held)
        assert sum(node.whole for node in nodes(guest)) >= 190 * MIB // PAGE
        guest.keep(16)
        done = ask(guest, 100 * MIB + PAGE, direction='up', exact=True)
        tap.equal(done['status'], 'reached')
        tap.equal(state(guest)['held'] * PAGE, 100 * MIB + 2 * PAGE)
        guest.balloon(MEMORY)
        tap.equal(state(guest)['held'], 0, 'held')
        guest.check_kept()
        guest.check_alive()


@tap.case('more than the nodes have: short, and it says so at once')
def shortfall() -> None:
    """The guest stays alive, and is not asked again for an exact target."""
    with guest_with(extra=TWO_NODES) as guest:
        guest.start()
        guest.run('dd if=/dev/zero of=/data/used bs=1M count=200')
        done = ask(guest, 400 * MIB, exact=True)
        tap.equal(done['status'], 'short')
        got = done['request']['got']
        assert 100 * MIB < got < 300 * MIB, got
        tap.equal(state(guest)['held'] * PAGE, got)
        guest.run('rm /data/used')
        retries = state(guest)['retries']
        guest.run('sleep 1')
        after = state(guest)
        tap.equal((after['held'] * PAGE, after['retries']), (got, retries), 'held, retries')
        guest.balloon(MEMORY)
        guest.check_alive()


def empty(guest: LinuxGuest) -> None:
    """Everything is the guest's again."""
    guest.balloon(guest.memory)
    tap.equal(state(guest)['held'], 0, 'held')


def at_rest(guest: LinuxGuest) -> bool:
    """The driver has what it shall have, and has said so."""
    now = state(guest)
    return now['done_seq'] == now['seq'] and now['held'] == now['target']


@tap.case('two CPUs inflate at the same time: exact on each node, also where no CPU is')
def together() -> None:
    """Node targets to the page; with one CPU online nobody helps."""
    with guest_with(memory=LARGE, extra=CPUS_ON_ONE) as guest:
        guest.start()
        guest.keep(16)
        size = 700 * MIB + 3 * PAGE
        for _ in range(ROUNDS):
            done = ask(guest, size, exact=True)
            tap.equal((done['status'], done['request']['got']), ('reached', size))
            held = {int(node['node']): node.held * PAGE for node in nodes(guest)}
            targets = {int(node['node']): int(node['target']) * PAGE for node in nodes(guest) if node['target'] != '-'}
            tap.equal({part['guest-node']: part['bytes'] for part in done['request']['parts']}, held)
            assert all(held[node] == target for node, target in targets.items()), (held, targets)
            assert all(held.values()), 'a node gave nothing'
            after = state(guest)
            tap.equal(after['inflated'] - after['deflated'], after['held'], 'inflated less deflated')
            empty(guest)
            if after['helped']:
                break
        tap.note(str(after))
        assert after['helped'] > 0, 'nobody helped'
        guest.run('echo 0 >/sys/devices/system/cpu/cpu1/online')
        guest.balloon(LARGE - size)
        tap.equal(state(guest)['helped'], after['helped'], 'helped, with one CPU')
        empty(guest)
        guest.check_kept()
        guest.check_alive()


@tap.case('a target that is lowered while CPUs inflate: they stop in the middle of a step')
def lowered() -> None:
    """The request is cancelled as soon as the host has the first pages; what was begun is given back."""
    with guest_with(memory=LARGE, extra=CPUS_ON_ONE) as guest:
        guest.start()
        taken: List[int] = []
        while len(taken) < ROUNDS and min(taken, default=STEP) >= STEP:
            before = state(guest)['inflated']
            guest.vm.qmp('balloon-node', {'host-node': 0, 'bytes': 800 * MIB, 'exact': True})
            while not any(node['ballooned'] for node in guest.vm.qmp('query-balloon-node')['vnodes']):
                pass
            guest.vm.qmp('balloon-node-cancel')
            tap.equal(guest.vm.wait_event('BALLOON_NODE_DONE', 120)['data']['status'], 'cancelled')
            wait_until(lambda: at_rest(guest), 'the driver to be there')
            taken.append((state(guest)['inflated'] - before) * PAGE)
            empty(guest)
        tap.note(f'MiB taken: {[size // MIB for size in taken]}')
        assert min(taken) < STEP, 'none stopped'
        guest.check_alive()


@tap.case('unloaded while CPUs inflate')
def unloaded() -> None:
    """Nobody is left behind, and all the memory is the guest's."""
    with guest_with(memory=LARGE, extra=CPUS_ON_ONE) as guest:
        guest.start()
        guest.keep(16)
        full = 800 * MIB
        free = meminfo(guest, 'MemFree')
        helped, caught = 0, 0
        for number in range(ROUNDS):
            guest.set_balloon(LARGE - full)
            text = guest.run(f'until grep -qv "held=0$" {DEBUGFS}/nodes; do :; done; cat {DEBUGFS}/state; '
                             'rmmod ballast_balloon')
            last = {key: int(value) for key, value in (line.split('=') for line in text.split())}
            tap.equal(guest.actual(), LARGE, 'after unloading')
            wait_until(lambda: meminfo(guest, 'MemFree') > free - 16 * MIB, 'its memory')
            helped += last['helped']
            caught += 0 < last['held'] * PAGE < full
            guest.set_balloon(LARGE)
            guest.run('insmod /lib/modules/ballast_balloon.ko')
            if caught >= 3 and helped:
                break
        tap.note(f'{caught} of {number + 1} in the middle, helpers had {helped} pages')
        assert caught and helped, 'never in the middle of helping'
        guest.balloon(LARGE - full)
        guest.run('rmmod ballast_balloon')
        tap.equal(guest.actual(), LARGE, 'after unloading with a full balloon')
        guest.check_kept()
        guest.check_alive()


@tap.case('out of memory while CPUs inflate: inflating ends, nobody is killed')
def out_of_memory_meanwhile() -> None:
    """A file grows while the balloon does; the two want more than there is."""
    with guest_with(memory=LARGE, extra=CPUS_ON_ONE, balloon={'deflate-on-oom': 'on'}) as guest:
        guest.start()
        finish = guest.begin('dd if=/dev/zero of=/data/big bs=1M count=500', 240)
        guest.set_balloon(200 * MIB)
        finish()
        wait_until(lambda: bool(state(guest)['done_status']), 'the end of it')
        after = state(guest)
        tap.note(str(after))
        assert after['oom'] > 0 and after['oom_hold'] == 1
        tap.equal(after['inflated'] - after['deflated'], after['held'], 'inflated less deflated')
        tap.equal(guest.actual(), LARGE - after['held'] * PAGE, 'actual')
        tap.equal(guest.try_run('dmesg | grep -c "Killed process"').text, '0')
        guest.run('rm /data/big')
        guest.balloon(300 * MIB)
        empty(guest)
        guest.check_alive()


@tap.case('a claim follows the blocks, and a refused deflation waits')
def claims() -> None:
    """Somebody else has what the guest gave; then that one is gone."""
    with host() as here:
        ledger = here.ledger('ledger', 600 * MIB)
        guest = here.guest(ledger, 'vm', MEMORY, driver='ballast').start()
        before = ledger.claimed('vm')
        guest.balloon(256 * MIB)
        wait_until(lambda: ledger.claimed('vm') <= before - 250 * MIB, 'the claim')
        command = [*ledger.run_command('--claim', '300M', '--name', 'other'), 'cat']
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as other:
            wait_until(lambda: 'other' in ledger.status().holders, "the other's claim")
            guest.set_balloon(MEMORY)
            guest.vm.wait_event('MEMORY_CLAIM_WAITING')
            assert guest.actual() < MEMORY, 'the guest has memory the ledger refused'
            other.communicate()
        guest.vm.wait_event('MEMORY_CLAIM_GRANTED')
        wait_until(lambda: guest.actual() == MEMORY, 'the balloon')
        wait_until(lambda: ledger.claimed('vm') == before, 'the claim')
        guest.check_alive()


@tap.case('out of memory: pages come back, nobody is killed, and they stay until the target changes')
def out_of_memory() -> None:
    """With init_on_free, so that page poison is negotiated, too."""
    with guest_with(balloon={'deflate-on-oom': 'on'}, append=' init_on_free=1') as guest:
        guest.start()
        features = guest.vm.qmp('x-query-virtio-status', path=f'{BALLOON}/virtio-backend')['guest-features']
        assert any('PAGE_POISON' in text for text in features['dev-features']), features
        guest.balloon(160 * MIB)
        guest.run('dd if=/dev/zero of=/data/big bs=1M count=200', 120)
        after = state(guest)
        tap.note(str(after))
        assert after['oom'] >= MIB // PAGE and after['oom_hold'] == 1
        tap.equal(after['held'], 352 * MIB // PAGE - after['oom'], 'held')
        tap.equal(guest.actual(), MEMORY - after['held'] * PAGE, 'actual')
        tap.equal(guest.try_run('dmesg | grep -c "Killed process"').text, '0')
        guest.run('rm /data/big; sleep 1')
        tap.equal(state(guest)['held'], after['held'], 'held later')
        guest.balloon(161 * MIB)
        guest.balloon(MEMORY)
        guest.check_alive()


def sleep(guest: LinuxGuest) -> None:
    """Suspended to RAM, with nothing in the balloon, and woken."""
    finish = guest.begin('echo mem >/sys/power/state', 120)
    wait_until(lambda: guest.vm.qmp('query-status')['status'] == 'suspended', 'sleep', 120)
    tap.equal(guest.actual(), guest.memory, 'asleep')
    guest.vm.qmp('system_wakeup')
    finish()


@tap.case('suspended to RAM while CPUs inflate')
def suspend_meanwhile() -> None:
    """A frozen workqueue starts no helpers, and nobody waits for one."""
    with guest_with(memory=LARGE, extra=(*CPUS_ON_ONE, '-global', 'ICH9-LPC.disable_s3=0')) as guest:
        guest.start()
        guest.keep(16)
        guest.set_balloon(200 * MIB)
        wait_until(lambda: guest.actual() < LARGE, 'the first step')
        sleep(guest)
        wait_until(lambda: guest.actual() == 200 * MIB, 'the balloon', 120)
        tap.equal(state(guest)['held'], (LARGE - 200 * MIB) // PAGE, 'pages')
        empty(guest)
        guest.check_kept()
        guest.check_alive()


@tap.case('suspended to RAM with a full balloon')
def suspend() -> None:
    """It is empty while the guest sleeps, and full again when it wakes."""
    with guest_with(extra=(*TWO_NODES, '-global', 'ICH9-LPC.disable_s3=0')) as guest:
        guest.start()
        guest.keep(16)
        guest.balloon(256 * MIB)
        sleep(guest)
        wait_until(lambda: guest.actual() == 256 * MIB, 'the balloon')
        tap.equal(state(guest)['held'], 256 * MIB // PAGE, 'pages')
        guest.balloon(MEMORY)
        guest.check_kept()
        guest.check_alive()


@tap.case('a fragmented guest gives single pages; compaction moves them')
def fragmented() -> None:
    """Then it has its memory back, whole."""
    with guest_with() as guest:
        guest.start()
        guest.keep(16)
        holder = guest.run('echo 0 >/proc/sys/vm/compact_unevictable_allowed && fragment 400', 120)
        guest.balloon(400 * MIB, 300)
        node = nodes(guest)[0]
        tap.note(str(node))
        tap.equal(node.held, 112 * MIB // PAGE, 'pages')
        assert node.blocks[0] > 50 * MIB // PAGE, 'that was not fragmented'
        guest.run(f'kill {holder}')
        for _ in range(3):
            guest.run('echo 1 >/proc/sys/vm/compact_memory', 120)
        moved = state(guest)['migrated']
        tap.note(f'{moved} pages moved')
        assert moved > 0
        tap.equal(nodes(guest)[0].held, 112 * MIB // PAGE, 'pages')
        guest.balloon(MEMORY)
        guest.check_kept()
        guest.check_alive()


@tap.case('a live migration with hints keeps files and balloon')
def migration() -> None:
    """Blocks that are in the balloon there can be given back in other pieces."""
    with host() as here:
        ledgers = [here.ledger(name, MEMORY + 64 * MIB) for name in ('ledger-a', 'ledger-b')]
        source = here.guest(ledgers[0], 'vm', MEMORY, driver='ballast')
        destination = here.guest(ledgers[1], 'vm', MEMORY, driver='ballast', extra=('-incoming', 'defer'))
        destination.vm.launch()
        source.start()
        source.keep(48)
        source.churn(128)
        source.balloon(400 * MIB)
        source.migrate_to(destination)
        after = state(destination)
        tap.note(str(after))
        assert after['hinted'] > 0, 'no hints'
        wait_until(lambda: state(destination)['hints_kept'] == 0, 'hinted pages')
        destination.check_kept()
        destination.balloon(450 * MIB)
        destination.balloon(300 * MIB)
        destination.balloon(MEMORY)
        wait_until(lambda: ledgers[1].claimed('vm') >= MEMORY, 'the claim')
        destination.check_kept()
        destination.check_alive()


# -- building ---------------------------------------------------------------

def _run(command: Sequence[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                          text=True, env={**os.environ, 'LC_ALL': 'C.UTF-8'})
    assert not done.returncode, f'{command[0]}: {done.stdout[-2000:]}'
    return done.stdout


@tap.case("the package's source builds without warnings for a newer kernel")
def package() -> None:
    """As DKMS would build it; the guest image is the proof for the guest's own kernel."""
    headers = paths.BUILD / 'deps' / 'kernel-headers-guest-new'
    tap.need((headers / 'build').exists(), f'kernel headers ({headers}; see scripts/kernel-headers)')
    with tempfile.TemporaryDirectory(prefix='ballast-') as name:
        folder = Path(name)
        _run([str(paths.REPO / 'guest/linux/make-deb'), name], folder)
        _run(['dpkg-deb', '-x', str(next(folder.glob('*.deb'))), 'root'], folder)
        source = next((folder / 'root/usr/src').iterdir())
        text = (folder / 'root/etc/modprobe.d/ballast-balloon.conf').read_text(encoding='utf-8')
        assert 'blacklist virtio_balloon' in text
        make = _run(['bash', '-c', f'kernel_source_dir={(headers / "build").resolve()}; . ./dkms.conf; '
                     'echo ${MAKE[0]}; echo $BUILT_MODULE_NAME'], source).split('\n')
        _run([*make[0].split(), 'check'], source)
        module = source / f'{make[1]}.ko'
        tap.note(_run(['modinfo', '-F', 'vermagic', str(module)], source).strip())


def newer_kernel() -> None:
    """All of this program, in a guest with that kernel."""
    folder = paths.BUILD / 'deps' / 'guest-new'
    tap.need((folder / 'initramfs.cpio.gz').exists(), f'a guest with a newer kernel ({folder}; BALLAST_FULL=1 scripts/setup)')
    env = {key: value for key, value in os.environ.items() if key != 'BALLAST_FULL'}
    done = subprocess.run([sys.executable, __file__], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                          text=True, env={**env, 'BALLAST_GUEST': str(folder)})
    for line in done.stdout.splitlines():
        tap.note(line)
    assert not done.returncode, f'status {done.returncode}'


if os.environ.get('BALLAST_FULL'):
    tap.add('the same with a newer kernel', newer_kernel)

if __name__ == '__main__':
    tap.main()
