# The compiled module is private; its interface is documented in _core.pyx.
from typing import Any

def __getattr__(name: str) -> Any: ...
