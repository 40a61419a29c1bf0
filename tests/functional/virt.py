# SPDX-License-Identifier: GPL-2.0-or-later
"""Private libvirt daemons, and the guests that they start.

A daemon here is an unprivileged session daemon with directories of its own: it needs neither root
nor systemd, sees nothing of the machine's libvirt, and two of them migrate guests to each other.
Started by root, it runs as nobody: kernel, initrd and plug-in are copied to where that may read.
"""

import atexit
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional
from xml.sax.saxutils import quoteattr

from fixture import need_guests
from guest import APPEND, DEVICE, MIB, Shell
from hostledger import HostLedger
from ballast import paths, tap
from ballast.vm import Serial, wait_until

REAPER = Path(__file__).with_name('reaper.py')
NOBODY = 65534
OLDEST = (8, 2)             # <qemu:override>
COMMAND_TIMEOUT = 240
STOP_TIMEOUT = 90
NAMESPACE = 'http://libvirt.org/schemas/domain/qemu/1.0'
QEMU_CONF = '''stdio_handler = "file"
namespaces = []
hugetlbfs_mount = []
'''


class VirshError(RuntimeError):
    """virsh failed; the text is what it printed."""


def _which(program: str) -> str:
    """Its path; daemons are not in the PATH of all users."""
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin") or ''


def missing() -> str:
    """What libvirt lacks here, or ''."""
    for program in ('libvirtd', 'virsh'):
        if not _which(program):
            return f'{program} (Debian: libvirt-daemon, libvirt-daemon-driver-qemu, libvirt-clients)'
    found = subprocess.run(['virsh', '--version'], capture_output=True, text=True, check=False).stdout
    version = tuple(int(part) for part in found.strip().split('.') if part.isdigit())
    if version < OLDEST:
        return f'libvirt {OLDEST[0]}.{OLDEST[1]} or newer, this is {found.strip()}'
    return ''


def as_user(*command: str) -> List[str]:
    """A command as that user."""
    if os.getuid():
        return list(command)
    return ['setpriv', f'--reuid={NOBODY}', f'--regid={NOBODY}', '--clear-groups', *command]


def give(path: Path) -> Path:
    """The user's from now on."""
    if not os.getuid():
        os.chown(path, NOBODY, NOBODY)
    return path


def folder(path: Path, mode: int = 0o755) -> Path:
    """A directory of the user's."""
    path.mkdir(mode=mode)
    return give(path)


class Daemon:
    """One libvirtd."""

    privileged = False

    def __init__(self, directory: Path, probes: Path) -> None:
        self.directory = folder(directory)
        # what QEMU can do is found out once for all daemons; each has its own logs
        cache = folder(folder(folder(directory / 'cache') / 'libvirt') / 'qemu')
        (cache / 'cache').symlink_to(probes)
        self._environment = {'PATH': os.environ['PATH'], 'HOME': str(folder(directory / 'home')),
                             'XDG_RUNTIME_DIR': str(folder(directory / 'run', 0o700)),
                             'XDG_CONFIG_HOME': str(folder(directory / 'etc')),
                             'XDG_DATA_HOME': str(folder(directory / 'data')),
                             'XDG_CACHE_HOME': str(directory / 'cache'),
                             'LC_ALL': 'C.UTF-8'}
        configuration = folder(directory / 'etc' / 'libvirt')
        (configuration / 'qemu.conf').write_text(QEMU_CONF, encoding='ascii')
        (configuration / 'libvirtd.conf').write_text(f'host_uuid = "{uuid.uuid4()}"\n', encoding='ascii')
        self._socket = directory / 'run' / 'libvirt' / 'libvirt-sock'
        self.uri = f'qemu+unix:///session?socket={self._socket}'
        self._log = directory / 'libvirtd.log'
        with self._log.open('wb') as log:
            self.process = subprocess.Popen(    # pylint: disable=consider-using-with
                [sys.executable, str(REAPER),
                 *as_user(_which('libvirtd'), '-f', str(configuration / 'libvirtd.conf'))],
                env=self._environment, cwd=directory, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log)

    def wait_ready(self) -> 'Daemon':
        """Wait until it answers; it must not have ended."""
        def answers() -> bool:
            if self.process.poll() is not None:
                raise VirshError(f'libvirtd ended with {self.process.returncode}: {self.log()}')
            return self._socket.exists() and self.try_virsh('version').returncode == 0
        wait_until(answers, 'libvirtd', 120)
        return self

    def _by_whom(self, *command: str) -> List[str]:
        return list(command) if self.privileged else as_user(*command)

    def run(self, *command: str) -> 'subprocess.CompletedProcess[str]':
        """A command of the user's, whatever becomes of it."""
        return subprocess.run(self._by_whom(*command), env=self._environment, cwd=self.directory,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                              timeout=COMMAND_TIMEOUT)

    def _virsh(self, *words: str) -> List[str]:
        return ['virsh', '-q', '-c', self.uri, *words]

    def try_virsh(self, *words: str) -> 'subprocess.CompletedProcess[str]':
        """virsh, whatever becomes of it."""
        return self.run(*self._virsh(*words))

    def virsh(self, *words: str) -> str:
        """virsh, which must succeed: its output."""
        result = self.try_virsh(*words)
        if result.returncode:
            raise VirshError(f"virsh {' '.join(words)}: {result.stderr.strip()}")
        return result.stdout.strip()

    def refused(self, *words: str) -> str:
        """virsh, which must fail: its error, in one line."""
        result = self.try_virsh(*words)
        assert result.returncode, f"virsh {' '.join(words)} succeeded: {result.stdout}"
        return ' '.join(result.stderr.split())

    def begin(self, *words: str) -> 'subprocess.Popen[str]':
        """virsh in the background; the caller waits for it."""
        return subprocess.Popen(self._by_whom(*self._virsh(*words)), env=self._environment, cwd=self.directory,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)

    def log(self) -> str:
        """The last that the daemon and its guests' QEMUs said."""
        texts = []
        for path in [self._log, *sorted((self.directory / 'cache').glob('libvirt/qemu/log/*.log'))]:
            texts.append(f'{path.name}: ' + path.read_text(encoding='utf-8', errors='replace')[-1500:])
        return '\n'.join(texts)

    def destroy_all(self) -> None:
        """No guest runs any more, none is defined."""
        for name in self.virsh('list', '--name').split():
            self.try_virsh('destroy', name)
        for name in self.virsh('list', '--name', '--all').split():
            self.try_virsh('undefine', '--managed-save', name)

    def stop(self) -> None:
        """End guests and daemon: a daemon that stops leaves its guests running."""
        if self.process.poll() is None:
            try:
                self.destroy_all()
            except (VirshError, subprocess.TimeoutExpired) as error:
                tap.note(str(error))
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGUSR1)
            self.process.wait()


class System(Daemon):
    """The libvirtd of a system, root's, with directories of its own where a system has its own."""

    privileged = True
    HIDDEN = ('/etc/libvirt', '/var/lib/libvirt', '/var/cache/libvirt', '/var/log/libvirt', '/run')
    # Without KVM: where it is there but does not work, QEMU would be probed again for each guest.
    # All that is mounted below moves along: libvirt moves it into the guests' /dev.
    DEV = ('mkdir $dev && mount -t tmpfs -o mode=755 none $dev && '
           'cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/ptmx $dev && '
           "for below in $(awk '$2 ~ \"^/dev/\" { print $2 }' /proc/self/mounts); do "
           'mkdir -p $dev/${below#/dev/} && mount --move $below $dev/${below#/dev/} || exit; done && '
           'mount --move $dev /dev')
    CONF = 'stdio_handler = "file"\nhugetlbfs_mount = []\ncgroup_controllers = []\n'

    def __init__(self, directory: Path, hook: Path, path: Path) -> None:  # pylint: disable=super-init-not-called
        self.directory = folder(directory)
        self._environment = {'PATH': f"{path}:{os.environ['PATH']}", 'LC_ALL': 'C.UTF-8'}
        self._socket = directory / 'libvirt-sock'
        self.uri = f'qemu+unix:///system?socket={self._socket}'
        self._log = directory / 'libvirtd.log'
        (directory / 'qemu.conf').write_text(self.CONF, encoding='ascii')
        (directory / 'libvirtd.conf').write_text(
            f'host_uuid = "{uuid.uuid4()}"\nunix_sock_dir = "{directory}"\nauth_unix_rw = "none"\n', encoding='ascii')
        script = ' && '.join([f'dev={directory}/dev', self.DEV,
                              *(f'mount -t tmpfs none {hidden}' for hidden in self.HIDDEN),
                              f'install -D -m 755 {hook} /etc/libvirt/hooks/qemu.d/ballast',
                              f'cp {directory}/qemu.conf /etc/libvirt',
                              f"exec {_which('libvirtd')} -f {directory}/libvirtd.conf"])
        with self._log.open('wb') as log:
            self.process = subprocess.Popen(    # pylint: disable=consider-using-with
                [sys.executable, str(REAPER), 'unshare', '--mount', 'sh', '-c', script],
                env=self._environment, cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


class Port:
    """A socket that guests connect their serial port to: each QEMU is one more console."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        give(path).chmod(0o666)
        self._socket.listen()
        self.consoles: List[Serial] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.consoles.append(Serial(connection))

    @property
    def console(self) -> Serial:
        """Of the newest QEMU that is there."""
        return [console for console in self.consoles if not console.closed][-1]

    def close(self) -> None:
        """No more of them."""
        # Who is left in accept() goes on with that number, should the call be restarted, when it is
        # another's: the next port of this name lost a console to it now and then.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        self.path.unlink()
        for console in self.consoles:
            console.close()


def override(alias: str = 'balloon0', **values: object) -> str:
    """Properties of one of libvirt's devices, as XML; an underscore stands for a dash."""
    kinds = {bool: 'bool', int: 'unsigned', str: 'string'}
    lines = ''.join(f"""
        <qemu:property name='{name.replace('_', '-')}' type='{kinds[type(value)]}' value={
            quoteattr(str(value).lower() if isinstance(value, bool) else str(value))}/>"""
                    for name, value in values.items())
    return f"""
  <qemu:override>
    <qemu:device alias='{alias}'>
      <qemu:frontend>{lines}
      </qemu:frontend>
    </qemu:device>
  </qemu:override>"""


def command_line(*words: str) -> str:
    """Arguments for QEMU, as XML."""
    lines = ''.join(f'\n    <qemu:arg value={quoteattr(word)}/>' for word in words)
    return f'\n  <qemu:commandline>{lines}\n  </qemu:commandline>'


OURS = override(driver=DEVICE, free_page_hint=True)
BALLOON = "<memballoon model='virtio'/>"


class VirtGuest(Shell):
    """A guest of one daemon, later perhaps of another one."""

    def __init__(self, daemon: Daemon, name: str, xml: str, port: Port) -> None:
        super().__init__(name)
        self.daemon = daemon
        self.xml = xml
        self.serial = port

    @property
    def port(self) -> Serial:
        return self.serial.console

    def file(self, xml: Optional[str] = None) -> str:
        """A new file with the XML."""
        handle, path = tempfile.mkstemp('.xml', dir=self.daemon.directory)
        with os.fdopen(handle, 'w', encoding='utf-8') as stream:
            stream.write(xml or self.xml)
        os.chmod(path, 0o644)
        return path

    def define(self) -> 'VirtGuest':
        """virsh define."""
        self.daemon.virsh('define', self.file())
        return self

    def virsh(self, command: str, *words: str) -> str:
        """A command of virsh about this guest."""
        return self.daemon.virsh(command, self.name, *words)

    def resume(self, command: str, *words: str) -> None:
        """A command of virsh that leaves it running in a new QEMU."""
        consoles = len(self.serial.consoles)
        self.daemon.virsh(command, *words)
        wait_until(lambda: len(self.serial.consoles) > consoles, f'the console of {self.name}')

    def start(self) -> 'VirtGuest':
        """virsh start."""
        self.resume('start', self.name)
        return self

    def boot(self) -> 'VirtGuest':
        """virsh start, and wait until it takes commands."""
        self.start()
        self.wait_boot()
        return self

    def refused(self, *words: str) -> str:
        """virsh start must fail with all of these in its error, which is returned."""
        error = self.daemon.refused('start', self.name)
        lost = [word for word in words if word not in error]
        assert not lost, f'the error does not say {lost}: {error}'
        assert self.state() == 'shut off', self.state()
        return error

    def state(self) -> str:
        """What virsh says."""
        return self.virsh('domstate')

    def qmp(self, command: str, **arguments: object) -> Any:
        """A command of QMP through libvirt."""
        request = json.dumps({'execute': command, 'arguments': arguments})
        return json.loads(self.virsh('qemu-monitor-command', request))['return']

    def memory(self) -> Dict[str, int]:
        """dommemstat; bytes, where it has KiB."""
        pairs = [line.split() for line in self.virsh('dommemstat').splitlines()]
        counts = ('swap_in', 'swap_out', 'major_fault', 'minor_fault', 'last_update')
        return {name: int(value) * (1 if name in counts else 1024) for name, value in pairs}

    def balloon(self, target: int) -> None:
        """setmem, and wait until the guest has done it."""
        self.virsh('setmem', f'{target // 1024}', '--live')
        wait_until(lambda: self.memory()['actual'] == target, f'the balloon of {self.name}', 120)

    def migrate(self, to: Daemon, *words: str, xml: Optional[str] = None) -> None:
        """Live to another daemon, over a Unix socket if the words say nothing; with other XML, if given.

        Not faster than guests give hints, and paused in the end if they write too much.
        """
        other = ['--bandwidth', '100', '--timeout', '60', *(['--xml', self.file(xml)] if xml else [])]
        if '--p2p' not in words and '--migrateuri' not in words:
            other += ['--migrateuri', f'unix://{to.directory}/{self.name}.sock']
        self.resume('migrate', '--live', *other, *words, self.name, to.uri)
        self.daemon = to


class Host:
    """Daemons, two if nothing else is said, and what their guests boot; all that a case made ends with it."""

    def __init__(self, directory: Path, start: 'Optional[Callable[[Path], List[Daemon]]]' = None) -> None:
        self._directory = directory
        self._boot = folder(directory / 'boot')
        for file in (paths.GUEST / 'vmlinuz', paths.GUEST / 'initramfs.cpio.gz', paths.PLUGIN):
            shutil.copy(file, self._boot)
            (self._boot / file.name).chmod(0o755)
        self.plugin = self._boot / paths.PLUGIN.name
        self.emulator = ''      # of the guests; '': the QEMU under test
        self._daemons = (start or _two)(directory)
        self.one, self.two = self._daemons[0], self._daemons[-1]
        self._ports: List[Port] = []
        self._files: List[Path] = []

    def ledger(self, name: str, capacity: int) -> HostLedger:
        """A new ledger that counts promises only, so that a busy machine changes nothing."""
        ledger = HostLedger.create(self._directory / name, capacity, '--admission', 'static')
        self._files.append(give(ledger.path))
        return ledger

    def xml(self, name: str, memory: int, balloon: str, more: str, head: str = '') -> str:
        """A domain: q35 under TCG, the Linux of the tests, its console at a port of that name."""
        emulator = self.emulator or shutil.which(paths.QEMU)
        return f"""<domain type='qemu' xmlns:qemu='{NAMESPACE}'>
  <name>{name}</name>
  <uuid>{_uuid(name)}</uuid>
  <memory unit='MiB'>{memory // MIB}</memory>
  <vcpu>1</vcpu>{head}
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{self._boot}/vmlinuz</kernel>
    <initrd>{self._boot}/initramfs.cpio.gz</initrd>
    <cmdline>{APPEND}</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <cpu mode='maximum'>
    <feature policy='disable' name='erms'/>
    <feature policy='disable' name='fsrm'/>
  </cpu>
  <devices>
    <emulator>{emulator}</emulator>
    <controller type='usb' model='none'/>
    <serial type='unix'><source mode='connect' path='{self._directory}/{name}.port'/></serial>
    {balloon}
  </devices>{more}
</domain>
"""

    def load(self, ledger: Path) -> str:
        """The plug-in with this ledger, as XML."""
        return command_line('-plugin', f'{self.plugin},ledger={ledger}')

    def port(self, name: str) -> Port:
        """Where a guest of that name has its console."""
        self._ports.append(Port(self._directory / f'{name}.port'))
        return self._ports[-1]

    def guest(self, name: str, xml: str) -> VirtGuest:
        """That XML, defined at the first daemon."""
        return VirtGuest(self.one, name, xml, self.port(name)).define()

    def claimant(self, name: str, ledger: Path, memory: int = 512 * MIB, *, more: str = OURS,
                 balloon: str = BALLOON, head: str = '') -> VirtGuest:
        """A guest that will claim its memory there: with our device, if nothing else is said."""
        return self.guest(name, self.xml(name, memory, balloon, self.load(ledger) + more, head))

    def clean(self) -> None:
        """As it was before the case."""
        for daemon in self._daemons:
            daemon.destroy_all()
        while self._ports:
            self._ports.pop().close()
        while self._files:
            self._files.pop().unlink()
        self.emulator = ''

    def logs(self) -> str:
        """What daemons and QEMUs said."""
        return '\n'.join(f'{daemon.directory.name}/{line}' for daemon in self._daemons
                         for line in daemon.log().splitlines() if '/dev/kvm' not in line)

    def stop(self) -> None:
        """End both."""
        for daemon in self._daemons:
            daemon.stop()


def _two(directory: Path) -> List[Daemon]:
    """What QEMU can do is found out by the first one."""
    probes = folder(directory / 'probes')
    return [Daemon(directory / name, probes).wait_ready() for name in 'ab']


def last_answer(ask: Callable[[], Optional[Dict[str, Any]]], move: Callable[[], None]) -> Dict[str, Any]:
    """What was answered last while something moved; None is no answer, and the end of asking."""
    last: Dict[str, Any] = {}

    def poll() -> None:
        while True:
            answer = ask()
            if answer is None:
                return
            last.update(answer)
    thread = threading.Thread(target=poll)
    thread.start()
    move()
    thread.join()
    return last


def _uuid(name: str) -> str:
    """The same on both hosts."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


_hosts: List[Host] = []


def _end() -> None:
    for here in _hosts:
        here.stop()


@contextmanager
def host(start: 'Optional[Callable[[Path], List[Daemon]]]' = None) -> Iterator[Host]:
    """The daemons, or a skip; they are started once for all cases."""
    need_guests()
    tap.need(paths.CLI.exists(), f'the ballast command ({paths.CLI})')
    lacking = missing()
    tap.need(not lacking, lacking)
    if not _hosts:
        directory = tempfile.TemporaryDirectory(prefix='ballast-')  # pylint: disable=consider-using-with
        atexit.register(directory.cleanup)
        atexit.register(_end)
        give(Path(directory.name)).chmod(0o755)
        _hosts.append(Host(Path(directory.name), start))
    here = _hosts[0]
    try:
        yield here
    except tap.Skip:
        raise
    except BaseException:
        tap.note(here.logs())
        raise
    finally:
        here.clean()
