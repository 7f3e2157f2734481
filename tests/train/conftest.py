"""What the tests of training share."""

import multiprocessing
import os
import socket
import traceback
import warnings

import pytest
import torch

from residual.train import distributed


@pytest.fixture
def together(tmp_path):
    """together(work, size=2): what work(world) returned in each of the processes."""

    def run(work, size=2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]

        def body(rank):
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            code = 1
            try:
                torch.save(work(distributed.join(torch.device("cpu"))), tmp_path / f"{rank}.pt")
                distributed.leave()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks beside threads
            processes = [multiprocessing.get_context("fork").Process(target=body, args=(r,)) for r in range(size)]
            for process in processes:
                process.start()
        for process in processes:
            process.join(60)
            if process.exitcode is None:
                process.kill()
        assert [process.exitcode for process in processes] == [0] * size
        return [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(size)]

    return run
