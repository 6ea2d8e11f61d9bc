"""Values of parameters, as they come from a command line or a file."""

TYPES = {"int": int, "float": float, "str": str, "bool": bool}


def convert(value: object, kind: type) -> object:
    """The value as int, float, str or bool; from a string too. Raises ValueError if it is not one."""
    if kind is bool:
        named = {"true": True, "false": False}
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in named:
            return named[value.lower()]
        raise ValueError
    if isinstance(value, bool):
        raise ValueError
    if isinstance(value, (str, kind)) or (kind is float and isinstance(value, int)):
        return kind(value)
    raise ValueError
