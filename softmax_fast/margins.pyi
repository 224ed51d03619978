class LargeMargin:
    m: int
    blend: float
    def __init__(self, m: int, blend: float = 0.0) -> None: ...

class CosineMargin:
    m: float
    scale: float
    def __init__(self, m: float, scale: float) -> None: ...

class AngularMargin:
    m: float
    scale: float
    def __init__(self, m: float, scale: float) -> None: ...
