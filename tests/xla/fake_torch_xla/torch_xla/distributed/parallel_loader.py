"""FAKE: reads ahead in a thread, and swallows what reading raises, as the real one does."""

import queue
import threading

import torch_xla


class ParallelLoader:
    def __init__(self, cpu_loader, devices, loader_prefetch_size=16, device_prefetch_size=8):
        self._loader = cpu_loader
        self._queue = queue.Queue(loader_prefetch_size + device_prefetch_size)
        self._closed = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        for batch in self._loader:
            if not self._put((batch,)):
                return
        self._put(None)

    def _put(self, item):
        while not self._closed:
            try:
                self._queue.put(item, timeout=0.05)
            except queue.Full:
                continue
            return True
        return False

    def per_device_loader(self, device):
        while True:
            torch_xla.sync()
            item = self._queue.get()
            if item is None:
                return
            yield item[0]

    def close(self):
        self._closed = True
        self._thread.join()
