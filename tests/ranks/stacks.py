"""Show where a rank is, as the text of its stack."""

import sys
import threading
import traceback

_MACHINERY = ("/_pytest/", "/pluggy/")


def main_thread() -> str:
    """Return the stack of the main thread, from the test or fixture that pytest called."""
    frames = traceback.extract_stack(sys._current_frames()[threading.main_thread().ident or 0])
    below = [k for k, f in enumerate(frames) if any(part in f.filename for part in _MACHINERY)]
    own = frames[below[-1] + 1 :] if below else frames
    return "".join(traceback.format_list(own or frames))
