"What several benchmarks say of the machine that they ran on, and of the memory that they took."
import os
import platform
from pathlib import Path


def cpu_info() -> str:
    "What Linux says of the processor; nothing elsewhere."
    file = Path('/proc/cpuinfo')
    return file.read_text(encoding='utf-8') if file.exists() else ''


def processor() -> str:
    "The processor's name."
    names = [l.split(':')[1].strip() for l in cpu_info().splitlines() if l.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()


def cores() -> str: return f'{os.cpu_count()} cores of {processor()}'


def peak_mb() -> float:
    "Most MB that this process has held."
    status = Path('/proc/self/status')
    if status.exists():
        lines = status.read_text(encoding='utf-8').splitlines()
        return int(next(l for l in lines if l.startswith('VmHWM')).split()[1]) / 2 ** 10
    import resource
    # this one begins with what the parent process held, and Macs count bytes
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2 ** (20 if platform.system() == 'Darwin' else 10)
