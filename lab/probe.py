"""What a device can do, measured from inside it; limits.py starts this there. Prints one number.

    probe.py cached FILE           bytes of the page cache that hold FILE, once it has been read through, and
                                   those of this program
    probe.py hold BYTES            takes anonymous memory until it has so much; prints how much it got
    probe.py read FILE SECONDS     bytes per second of direct reads
    probe.py read-cached FILE SECONDS      of reads through the page cache
    probe.py spin SECONDS          processor seconds per second, all processors busy
    probe.py burst MS              the same of one processor within bursts of MS milliseconds after rests, the
                                   median; after their first 10 ms, when a period's whole quota may be left
    probe.py receive PORT          bytes per second of one TCP stream that comes in
    probe.py send HOST PORT SECONDS
    probe.py answer PORT           sends each datagram back, until killed
    probe.py ask HOST PORT COUNT   median milliseconds until datagrams come back
    probe.py lost HOST PORT COUNT  how many percent of them do not; one is sent every half millisecond
"""

import ctypes
import mmap
import os
import socket
import statistics
import sys
import threading
import time

BLOCK = 1 << 20


def cached(path: str) -> int:
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        while file.read(BLOCK):
            pass
        pages = -(-size // mmap.PAGESIZE)
        resident = (ctypes.c_ubyte * pages)()
        # Writable only because ctypes takes no address of a read-only one; a private mapping.
        mapped = mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        if ctypes.CDLL(None, use_errno=True).mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), resident):
            raise OSError(ctypes.get_errno(), "mincore")
        with open("/proc/self/status", encoding="utf-8") as lines:
            own = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
        return sum(page & 1 for page in resident) * mmap.PAGESIZE + own


def hold(size: int) -> int:
    blocks = []
    while len(blocks) * BLOCK < size:
        blocks.append(b"\1" * BLOCK)
    return len(blocks) * BLOCK


def read(path: str, seconds: float, flags: int) -> float:
    """Several readers, as Prima has: one alone may be slower than the disk."""
    size = os.stat(path).st_size
    block = 4 * BLOCK
    deadline = time.monotonic() + seconds
    counts = []

    def reader(number: int, of: int) -> None:
        file = os.open(path, os.O_RDONLY | flags)
        buffer = mmap.mmap(-1, block)
        at, count = number * block, 0
        while time.monotonic() < deadline:
            count += os.preadv(file, [buffer], at)
            at = at + of * block if at + (of + 1) * block <= size else number * block
        counts.append(count)

    begin = time.monotonic()
    readers = [threading.Thread(target=reader, args=(i, 4)) for i in range(4)]
    for thread in readers:
        thread.start()
    for thread in readers:
        thread.join()
    return sum(counts) / (time.monotonic() - begin)


def busy(seconds: float) -> float:
    """Processor time that this process got while it wanted all the time."""
    begin = time.monotonic()
    used = time.process_time()
    while time.monotonic() - begin < seconds:
        pass
    return (time.process_time() - used) / (time.monotonic() - begin)


def on_all_processors(measure) -> float:
    """The sum of what `measure` says in one process per processor, all begun together."""
    read_end, write_end = os.pipe()
    children = []
    begin = time.monotonic() + 0.2
    for _ in os.sched_getaffinity(0):
        child = os.fork()
        if child == 0:
            time.sleep(max(0, begin - time.monotonic()))
            os.write(write_end, f"{measure()}\n".encode())
            os._exit(0)
        children.append(child)
    os.close(write_end)
    with os.fdopen(read_end) as lines:
        total = sum(float(line) for line in lines)
    for child in children:
        os.waitpid(child, 0)
    return total


def burst(seconds: float) -> float:
    shares = []
    for _ in range(25):
        time.sleep(2 * seconds)
        busy(0.01)
        shares.append(busy(seconds))
    return statistics.median(shares)


def receive(port: int) -> float:
    with socket.create_server(("", port)) as server:
        print("ready", flush=True)
        connection, _ = server.accept()
        count, begin = 0, 0.0
        while data := connection.recv(BLOCK):
            # The first half second fills buffers and opens the window.
            now = time.monotonic()
            if begin == 0:
                begin = now + 0.5
            elif now > begin:
                count += len(data)
        return count / (time.monotonic() - begin)


def send(host: str, port: int, seconds: float) -> None:
    with socket.create_connection((host, port), timeout=10) as connection:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            connection.sendall(b"\0" * 65536)


def answer(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.bind(("", port))
        print("ready", flush=True)
        while True:
            data, sender = end.recvfrom(2048)
            end.sendto(data, sender)


def ask(host: str, port: int, count: int) -> float:
    times = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.settimeout(1)
        for number in range(count):
            time.sleep(0.005)
            message = str(number).encode()
            begin = time.perf_counter()
            end.sendto(message, (host, port))
            try:
                while end.recv(2048) != message:
                    pass
            except (TimeoutError, ConnectionRefusedError):
                continue
            times.append(time.perf_counter() - begin)
    return 1000 * statistics.median(times)


def lost(host: str, port: int, count: int) -> float:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        end.setblocking(False)
        for number in range(count):
            try:
                end.sendto(str(number).encode(), (host, port))
            except OSError:
                pass  # a network that is down: lost
            time.sleep(0.0005)
        end.settimeout(1)
        answers = set()
        try:
            while len(answers) < count:
                answers.add(end.recv(2048))
        except OSError:
            pass  # no more of them
        return 100 * (1 - len(answers) / count)


def main() -> None:
    verb, *words = sys.argv[1:]
    result = {
        "cached": lambda: cached(words[0]),
        "hold": lambda: hold(int(words[0])),
        "read": lambda: read(words[0], float(words[1]), os.O_DIRECT),
        "read-cached": lambda: read(words[0], float(words[1]), 0),
        "spin": lambda: on_all_processors(lambda: busy(float(words[0]))),
        "burst": lambda: burst(float(words[0]) / 1000),
        "receive": lambda: receive(int(words[0])),
        "send": lambda: send(words[0], int(words[1]), float(words[2])),
        "answer": lambda: answer(int(words[0])),
        "ask": lambda: ask(words[0], int(words[1]), int(words[2])),
        "lost": lambda: lost(words[0], int(words[1]), int(words[2])),
    }[verb]()
    if result is not None:
        print(result)


if __name__ == "__main__":
    main()
