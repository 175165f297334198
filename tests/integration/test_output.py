"""What ranks print is seen, labelled, and kept whole."""

from __future__ import annotations

from tests.integration.kernels import Notebook
from tests.integration.test_launch import literal

SPEAK = """
def speak():
    import ctypes, logging, os, subprocess, sys, warnings
    rank = os.environ["RANK"]
    print("python", rank)
    sys.stderr.write("stderr\\n")
    subprocess.run(["echo", "subprocess"])
    ctypes.CDLL(None).puts(b"from C, not flushed")
    logging.getLogger("x").warning("logged")
    warnings.warn("warned")
    print("gr\\u00fc\\u00df\\u20ac", "no line end", end="")
"""


def test_all_ways_to_print_arrive_and_are_kept(notebook: Notebook) -> None:
    text = notebook.check(SPEAK + "r = notebook_launcher(speak, num_processes=2)\nprint([r.logs(0), r.logs(1)])")
    for rank, log in enumerate(literal(text)):  # type: ignore[arg-type]
        for words in (f"python {rank}\n", "stderr\n", "subprocess\n", "from C, not flushed\n", "logged", "warned"):
            assert words in log
        assert log.count("gr\u00fc\u00df\u20ac no line end") == 1
    assert "\npython 0\n" in text, "rank 0's lines are plain"
    assert "\n[rank 1] python 1\n" in text
    assert "\n[rank 1] gr\u00fc\u00df\u20ac no line end\n" in text


def test_a_label_template_as_accelerate_takes_it(notebook: Notebook) -> None:
    text = notebook.check(
        "r = notebook_launcher(lambda: print('hi'), num_processes=2, log_line_prefix_template='<${role_name} ${rank}> ')"  # noqa: E501
    )
    assert "<default 0> hi\n" in text
    assert "<default 1> hi\n" in text


def test_a_flood_neither_blocks_a_rank_nor_loses_a_byte(notebook: Notebook) -> None:
    text = notebook.check(
        "def flood():\n"
        "    for i in range(40_000): print(i, 'x' * 40)\n"
        "import io, contextlib\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    r = notebook_launcher(flood, num_processes=2)\n"
        "print([(r.logs(k).count('\\n'), r.logs(k).splitlines()[-1][:5]) for k in (0, 1)])"
    )
    assert literal(text) == [(40_000, "39999")] * 2


def test_accelerator_prints_once(notebook: Notebook) -> None:
    text = notebook.check(
        "def train():\n"
        "    accelerator = Accelerator()\n"
        "    accelerator.print('once')\n"
        "    accelerator.wait_for_everyone()\n"
        "    return accelerator.process_index, accelerator.num_processes, str(accelerator.device)\n"
        "r = notebook_launcher(train, num_processes=2, devices='cpu')\n"
        "print(list(r))"
    )
    assert text.count("once") == 1
    assert literal(text) == [(0, 2, "cpu"), (1, 2, "cpu")]
